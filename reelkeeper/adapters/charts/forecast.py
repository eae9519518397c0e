"""Chart past and forecast spend: history, the mean, and prediction bands."""

from collections.abc import Mapping

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


def forecast_fan(
    history: "pd.Series[float]",
    mean: "pd.Series[float]",
    bands: Mapping[int, pd.DataFrame],
    budget_usd: float | None = None,
    *,
    title: str = "",
) -> Picture:
    """Draw dollars over time: `history` as a line, `mean` dotted after it, and the prediction bands around it.

    Each is indexed by days, or by the first days of months. `bands` maps a level in percent to the columns lower and
    upper, over the days of `mean`. The last known and the last forecast amount are labelled; the legend gives each
    band's amounts on the last day.
    """
    past, future = _points(history), _points(mean)
    if past.empty and future.empty:
        return nothing("No forecast yet: it needs several days of charges", title)
    spans = _spans(bands, past.tail(1))
    every = [*past["usd"], *future["usd"], *spans["upper"], *spans["lower"], budget_usd or 0.0]
    most = max(*every, 0.0) * ROOM or 1.0
    x, y = time_axis([*past["day"], *future["day"]]), usd_axis(most, min(every))
    layers: list[Picture] = [_fan(spans)] if len(spans) else []
    expected = pd.concat([past.tail(1), future], ignore_index=True)
    layers += [
        alt.Chart(points).mark_line(style=style).encode(x=x, y=y)
        for points, style in ((past, "known"), (expected if len(future) else future, "expected"))
    ]
    if budget_usd is not None:
        layers.append(limit_line(budget_usd, f"monthly budget {money(budget_usd)}"))
    layers += [layer for end in (past, future) if len(end) for layer in _end(end.tail(1))]
    return alt.layer(*layers).properties(title=title)


def _points(series: "pd.Series[float]") -> pd.DataFrame:
    index = series.index.to_timestamp() if isinstance(series.index, pd.PeriodIndex) else series.index
    return pd.DataFrame({"day": as_days(index), "usd": series.astype(float).to_numpy()}).dropna()


def _spans(bands: Mapping[int, pd.DataFrame], last: pd.DataFrame) -> pd.DataFrame:
    """Convert the bands to rows, the widest first, each starting with zero width at the last known day."""
    found = []
    for level in sorted((level for level, band in bands.items() if len(band)), reverse=True):
        lower, upper = _points(bands[level]["lower"]), _points(bands[level]["upper"])
        rows = pd.DataFrame({"day": lower["day"], "lower": lower["usd"], "upper": upper["usd"]})
        start = last.assign(lower=last["usd"], upper=last["usd"])[["day", "lower", "upper"]]
        label = f"{level} %: {money(rows['lower'].iloc[-1])} to {money(rows['upper'].iloc[-1])}"
        found.append(pd.concat([start, rows], ignore_index=True).assign(level=label))
    columns = ["day", "lower", "upper", "level"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _fan(spans: pd.DataFrame) -> Picture:
    levels = list(dict.fromkeys(spans["level"]))
    legend = alt.Legend(columns=alt.ExprRef(f"{ON_A_PHONE} ? 1 : 4"))
    colour = alt.Color("level:N").scale(domain=levels, range="ramp").legend(legend)
    fan: Picture = alt.Chart(spans).mark_area().encode(x="day:T", y="lower:Q", y2="upper:Q", color=colour)
    return fan


def _end(point: pd.DataFrame) -> list[Picture]:
    spot = alt.Chart(point).mark_point(style="spot").encode(x="day:T", y="usd:Q")
    label = point.assign(text=[money(usd) for usd in point["usd"]])
    return [spot, written(label, "label", alt.X("day:T"), align="right", dx=-10, dy=-12)]
