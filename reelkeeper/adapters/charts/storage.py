"""Chart stored bytes by video age and owner's tier, and the dollars saved so far."""

from collections.abc import Sequence
from typing import Final

import altair as alt
import pandas as pd

from reelkeeper.adapters.charts.parts import (
    ON_A_PHONE,
    ROOM,
    Picture,
    as_days,
    money,
    nothing,
    time_axis,
    unit,
    usd_axis,
    written,
)
from reelkeeper.adapters.charts.theme import TIERS

_UNKNOWN: Final = "unknown"  # the last colour
_ROW_PIXELS: Final = 46


def storage(stock: pd.DataFrame, tiers: Sequence[str], *, title: str = "") -> Picture:
    """Draw a bar for each age, in the order of the rows: `stock` has columns age, tier and size_bytes.

    `tiers` are those in force, from the cheapest to the most expensive; any other is drawn as unknown.
    `age` is a label such as "8-30 days". Each bar is labelled with its sum.
    """
    if stock.empty or not stock["size_bytes"].sum():
        return nothing("Nothing is stored yet", title)
    ages = list(dict.fromkeys(stock["age"]))
    totals = stock.groupby("age", sort=False)["size_bytes"].sum().astype(float)
    scale, name = unit(totals.max())
    names = [*tiers, _UNKNOWN]
    place = {tier: place for place, tier in enumerate(names)}
    rows = stock.assign(
        amount=stock["size_bytes"].astype(float) / scale,
        tier=[tier if tier in names else _UNKNOWN for tier in stock["tier"]],
    )
    most = alt.ExprRef(f"{totals.max() / scale} * ({ON_A_PHONE} ? 1.3 : 1.12)")  # room for the sums
    y = alt.Y("age:O").sort(ages).axis(title=None, domain=False, ticks=False, labelPadding=8).scale(paddingInner=0.35)
    bars = (
        alt.Chart(rows.assign(place=rows["tier"].map(place)))
        .mark_bar(style="piece")
        .encode(
            y=y,
            x=alt.X("sum(amount):Q")
            .scale(domainMin=0, domainMax=most, nice=False)
            .axis(title=name, tickCount=4, grid=True, domain=False, ticks=False),
            color=alt.Color("tier:O")
            .scale(domain=names)
            .legend(
                values=[tier for tier in names if tier in set(rows["tier"])],
                columns=alt.ExprRef(f"{ON_A_PHONE} ? 2 : 4"),
            ),
            order=alt.Order("place:Q"),
        )
    )
    labels = pd.DataFrame({"age": totals.index, "amount": totals.to_numpy() / scale})
    sums = labels.assign(text=[f"{amount:,.{1 if amount < 100 else 0}f} {name}" for amount in labels["amount"]])  # noqa: PLR2004  three digits say enough
    written = alt.Chart(sums).mark_text(style="label", align="left", dx=7).encode(y=y, x="amount:Q", text="text:N")
    drawn: Picture = alt.layer(bars, written).properties(title=title, height=_ROW_PIXELS * len(ages) + 100)
    return drawn.properties(usermeta={TIERS: len(tiers)})


def savings(daily: pd.DataFrame, *, title: str = "", has_freed: bool = False) -> Picture:
    """Stack the cumulative dollars saved: `daily` has columns day, kind and usd, the saving of that day.

    `kind` is a label such as "smaller files". The total is labelled at the end. `has_freed`: bytes were freed less than
    a full day ago, so they are not drawn yet.
    """
    if daily.empty:
        return nothing(
            "Bytes were freed; savings count from the next day on" if has_freed else "Nothing has been saved yet", title
        )
    kinds = list(dict.fromkeys(daily["kind"]))
    saved = (
        daily.assign(day=as_days(daily["day"]), usd=daily["usd"].astype(float))
        .pivot_table(index="day", columns="kind", values="usd", aggfunc="sum", fill_value=0.0)
        .sort_index()
        .cumsum()
    )
    totals = saved.sum(axis=1)
    rows = saved.reset_index().melt(id_vars="day", var_name="kind", value_name="usd")
    places = rows["kind"].map({kind: place for place, kind in enumerate(kinds)})
    areas = (
        alt.Chart(rows.assign(place=places))
        .mark_area(style="piece")
        .encode(
            x=time_axis(totals.index),
            y=usd_axis(totals.max() * ROOM or 1.0, stacked=True),
            color=alt.Color("kind:N").scale(domain=kinds, range="heatmap"),
            order=alt.Order("place:Q"),
        )
    )
    end = pd.DataFrame({"day": totals.index[-1:], "usd": totals.iloc[-1:], "text": [money(totals.iloc[-1])]})
    return alt.layer(areas, written(end, "label", alt.X("day:T"), align="right")).properties(title=title)
