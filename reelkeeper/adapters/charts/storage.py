"""What is stored: bytes by the age of the video and the tier of its owner."""

from typing import Final

import altair as alt
import pandas as pd

from reelkeeper.adapters.charts.parts import ON_A_PHONE, Picture, nothing, unit

TIERS: Final = ("free", "premium", "pro", "unknown")  # in order of the colours
_ROW_PIXELS: Final = 46


def storage(stock: pd.DataFrame, *, title: str = "") -> Picture:
    """Draw a bar for each age, in the order of the rows: `stock` has columns age, tier and size_bytes.

    `age` is a label such as "8-30 days". The sum of each is written at its end.
    """
    if stock.empty or not stock["size_bytes"].sum():
        return nothing("Nothing is stored yet", title)
    ages = list(dict.fromkeys(stock["age"]))
    totals = stock.groupby("age", sort=False)["size_bytes"].sum().astype(float)
    scale, name = unit(totals.max())
    place = {tier: place for place, tier in enumerate(TIERS)}
    rows = stock.assign(
        amount=stock["size_bytes"].astype(float) / scale,
        tier=[tier if tier in TIERS else TIERS[-1] for tier in stock["tier"]],
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
            .scale(domain=list(TIERS))
            .legend(
                values=[tier for tier in TIERS if tier in set(rows["tier"])],
                columns=alt.ExprRef(f"{ON_A_PHONE} ? 2 : 4"),
            ),
            order=alt.Order("place:Q"),
        )
    )
    labels = pd.DataFrame({"age": totals.index, "amount": totals.to_numpy() / scale})
    sums = labels.assign(text=[f"{amount:,.{1 if amount < 100 else 0}f} {name}" for amount in labels["amount"]])  # noqa: PLR2004  three digits say enough
    written = alt.Chart(sums).mark_text(style="label", align="left", dx=7).encode(y=y, x="amount:Q", text="text:N")
    return alt.layer(bars, written).properties(title=title, height=_ROW_PIXELS * len(ages) + 100)
