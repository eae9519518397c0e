"""Chart of the monthly cost under several policies."""

import altair as alt
import pandas as pd

from reelkeeper.adapters.charts.parts import ON_A_PHONE, ROOM, Picture, as_days, money, nothing, time_axis, usd_axis


def policies(monthly: pd.DataFrame, notes: dict[str, str] | None = None, *, title: str = "") -> Picture:
    """Draw a line of dollars for each policy: `monthly` has columns month, policy and usd, of whole months alone.

    The legend says of each what all months come to, and the note that `notes` has of it.
    """
    if monthly.empty:
        return nothing("No whole month was looked at", title)
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
