"""What has been saved so far: dollars not spent, by what saved them."""

import altair as alt
import pandas as pd

from reelkeeper.adapters.charts.parts import ROOM, Picture, as_days, money, nothing, time_axis, usd_axis, written


def savings(daily: pd.DataFrame, *, title: str = "", has_freed: bool = False) -> Picture:
    """Stack the dollars saved up to each day: `daily` has columns day, kind and usd, what was saved on that day alone.

    `kind` is a label such as "smaller files". The sum of all is written at the end. `has_freed`: bytes are gone, of
    which no whole day has passed yet.
    """
    if daily.empty:
        return nothing(
            "What was freed saves from the next day on" if has_freed else "Nothing has been saved yet", title
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
