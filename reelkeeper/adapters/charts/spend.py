"""Chart each day's spend by service against the daily budget, and each month's cost under several policies."""

from typing import Final

import altair as alt
import pandas as pd

from reelkeeper.adapters.charts.parts import (
    ON_A_PHONE,
    ROOM,
    Picture,
    as_days,
    limit_line,
    money,
    nothing,
    time_axis,
    usd_axis,
    written,
)
from reelkeeper.adapters.charts.theme import SERVICES

_MAX_NAMED: Final = 3  # days over the budget that are labelled with their amount


def spend(daily: pd.DataFrame, budget_usd: float | None = None, *, title: str = "") -> Picture:
    """Stack each day's dollars by service: `daily` has columns day, service and usd, one row for each pair.

    A day in between without a row is unknown, not free, and marked "?". The highest days over the budget are labelled.
    """
    if daily.empty:
        return nothing("No spend is recorded yet", title)
    rows = daily.assign(day=as_days(daily["day"]), usd=daily["usd"].astype(float))
    totals = rows.groupby("day")["usd"].sum()
    days = as_days(pd.date_range(min(totals.index), max(totals.index), freq="D"))
    most = max(totals.max(), budget_usd or 0.0) * ROOM or 1.0
    layers: list[Picture] = [_stacks(rows, days, most)]
    if missing := [day for day in days if day not in totals.index]:
        unknown = pd.DataFrame({"day": missing, "usd": 0.0, "text": "?"})
        layers.append(written(unknown, "note", _days(days)))
    if budget_usd is not None:
        layers.append(limit_line(budget_usd, f"daily budget {money(budget_usd)}"))
        over = totals[totals > budget_usd].nlargest(_MAX_NAMED).rename("usd").reset_index()
        layers.append(written(over.assign(text=[money(usd) for usd in over["usd"]]), "limit-label", _days(days)))
    return alt.layer(*layers).properties(title=title)


def _stacks(rows: pd.DataFrame, days: list[str], most: float) -> Picture:
    known = [*SERVICES, *sorted(set(rows["service"]) - set(SERVICES))]
    legend = alt.Legend(
        values=[service for service in known if service in set(rows["service"])],
        columns=alt.ExprRef(f"{ON_A_PHONE} ? 2 : 6"),
    )
    below = rows[rows["usd"] < 0].groupby("day")["usd"].sum()  # corrections
    places = rows["service"].map({name: place for place, name in enumerate(known)})
    stacks: Picture = (
        alt.Chart(rows.assign(place=places))
        .mark_bar(style="piece")
        .encode(
            x=_days(days),
            y=usd_axis(most, below.min() if len(below) else 0.0, stacked=True),
            color=alt.Color("service:N").scale(domain=known).legend(legend),
            order=alt.Order("place:Q"),
        )
    )
    return stacks


def _days(days: list[str]) -> alt.X:
    """Return an axis with a place for each day, including unknown ones, and as many labels as fit."""
    label = "utcFormat(toDate(datum.value), '%-d %b')"
    axis = alt.Axis(labelExpr=label, labelOverlap="parity", labelAngle=0, title=None, ticks=False)
    return alt.X("day:O").scale(domain=days, paddingInner=0.22, paddingOuter=0.15).axis(axis)


def policies(monthly: pd.DataFrame, notes: dict[str, str] | None = None, *, title: str = "") -> Picture:
    """Draw a line of dollars for each policy: `monthly` has columns month, policy and usd, for full months only.

    The legend gives each policy's sum over all months, and its note in `notes`.
    """
    if monthly.empty:
        return nothing("No full month was simulated", title)
    totals = monthly.groupby("policy", sort=False)["usd"].sum().astype(float)
    names = {
        policy: ", ".join(filter(None, (f"{policy}: {money(total)}", (notes or {}).get(str(policy), ""))))
        for policy, total in totals.items()
    }
    rows = monthly.drop(columns="month").assign(
        day=as_days(monthly["month"]), usd=monthly["usd"].astype(float), policy=monthly["policy"].map(names)
    )
    most = rows["usd"].max() * ROOM or 1.0
    legend = alt.Legend(columns=alt.ExprRef(f"{ON_A_PHONE} ? 1 : 2"), labelLimit=340)
    drawn: Picture = (
        alt.Chart(rows)
        .mark_line(strokeWidth=2.5, strokeCap="round", point=True)
        .encode(
            x=time_axis([*rows["day"]]),
            y=usd_axis(most, rows["usd"].min()),
            color=alt.Color("policy:N").scale(domain=[*names.values()]).legend(legend),
        )
        .properties(title=title)
    )
    return drawn
