"""Charts draw any data, or say why they cannot, and everybody can read them."""

import io
import itertools
import os
import re
import struct
import subprocess
import sys
from datetime import date, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from PIL import Image, ImageChops

from reelkeeper.adapters import charts
from reelkeeper.adapters.charts import DARK, LIGHT, NARROW, WIDE, Picture, Theme
from tests.adapters.sight import SIGHTS, apart, contrast

FIRST = date(2026, 11, 1)
DAYS = [FIRST + timedelta(days=day) for day in range(10)]
SERVICES = ("compute", "api", "r2-storage")


def spent(*amounts: float, day: date = FIRST) -> pd.DataFrame:
    """One service's dollars on days in a row."""
    days = [day + timedelta(days=place) for place in range(len(amounts))]
    return pd.DataFrame({"day": days, "service": "compute", "usd": amounts})


def path(*amounts: float, first: str = "2026-11-01", freq: str = "D") -> "pd.Series[float]":
    return pd.Series(amounts, index=pd.date_range(first, periods=len(amounts), freq=freq), dtype=float)


def around(mean: "pd.Series[float]", share: float) -> pd.DataFrame:
    return pd.DataFrame({"lower": mean * (1 - share), "upper": mean * (1 + share)})


def tried(*usd: float) -> pd.DataFrame:
    """Two policies over two months."""
    months = [date(2026, 11, 1), date(2026, 12, 1)]
    rows = [(month, policy) for policy in ("in force", "strict") for month in months]
    amounts = usd or (20.0, 22.0, 12.0, 11.5)
    return pd.DataFrame(rows, columns=["month", "policy"]).assign(usd=amounts)


def words(chart: Picture, width: int = WIDE) -> list[str]:
    """What is written in the picture, once each."""
    return list(dict.fromkeys(re.findall(r"<(?:text|tspan)[^>]*>([^<]+)</", charts.svg(chart, width=width))))


def every_chart() -> dict[str, Picture]:
    stock = pd.DataFrame({"age": ["8-30 days"], "tier": ["pro"], "size_bytes": [7 * 10**9]})
    saved = pd.DataFrame({"day": DAYS, "kind": "smaller files", "usd": 0.1})
    mean = path(12.0, 14.0, first="2026-11-04")
    return {
        "spend": charts.spend(spent(3, 12, 4), 10, title="Spend"),
        "forecast": charts.forecast_fan(path(3, 6, 10), mean, {80: around(mean, 0.1), 95: around(mean, 0.2)}, 20),
        "storage": charts.storage(stock, ("free", "premium", "pro")),
        "savings": charts.savings(saved),
        "policies": charts.policies(tried()),
    }


@pytest.mark.long
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_each_tier_has_a_colour_of_its_own_from_the_least_to_the_most_paid(count: int, theme: Theme) -> None:
    names = [f"t{number}" for number in range(count)]
    rows = [("8-30 days", name, 10**9) for name in [*names, "of no document"]]
    chart = charts.storage(pd.DataFrame(rows, columns=["age", "tier", "size_bytes"]), names)
    assert {*names, "unknown"} <= {*words(chart)}
    colours = set(re.findall(r'fill="(#[0-9a-f]{6})"', charts.svg(chart, theme)))
    drawn = theme.config(count)["range"]["ordinal"]
    assert len({*drawn}) == count + 1
    assert {*drawn} <= colours
    assert (drawn[-2:], drawn[0]) == ([*theme.tiers[-2:]], theme.tiers[0] if count > 1 else theme.tiers[-2])


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        (DARK, NARROW),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((LIGHT, WIDE), (DARK, WIDE), (LIGHT, NARROW))),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_picture_is_as_wide_as_asked_and_loads_nothing(theme: Theme, width: int) -> None:
    for chart in every_chart().values():
        png = charts.png(chart, theme, width)
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", png[16:20]) == (2 * width,)
        svg = charts.svg(chart, theme, width)
        assert f'width="{width}"' in svg
        assert theme.surface in svg
        assert not re.search(r"<script|<image|<use|href=|url\(|@import", svg)


@pytest.mark.long
def test_a_chart_is_one_definition_and_the_theme_alone_colours_it() -> None:
    for chart in every_chart().values():
        light, dark = charts.svg(chart, LIGHT), charts.svg(chart, DARK)
        assert re.sub(r"#[0-9a-f]{6}", "", light) == re.sub(r"#[0-9a-f]{6}", "", dark)


def test_days_over_the_budget_are_named_and_the_budget_too() -> None:
    said = words(charts.spend(spent(3, 12.5, 4, 30), 10))
    assert {"daily budget $10", "$12.50", "$30"} <= {*said}


def test_an_uncounted_day_is_marked_as_unknown_and_not_drawn_as_free() -> None:
    gap = pd.concat([spent(3, 4), spent(5, day=FIRST + timedelta(days=4))])
    assert words(charts.spend(gap)).count("?") == 1
    assert charts.svg(charts.spend(gap)).count(">?<") == 2 * 2  # two days, each with its halo
    assert "?" not in words(charts.spend(spent(3, 0, 4)))


def test_a_service_keeps_its_colour_whatever_else_is_in_the_picture() -> None:
    alone = spent(5).assign(service="r2-storage")
    together = pd.concat([alone, spent(5)])
    assert LIGHT.services[2] in charts.svg(charts.spend(alone))
    assert LIGHT.services[0] not in charts.svg(charts.spend(alone))
    assert LIGHT.services[2] in charts.svg(charts.spend(together))


@pytest.mark.long
def test_a_forecast_chart_shows_the_present_total_the_forecast_and_its_band() -> None:
    mean = path(180.0, 208.0, first="2026-11-25")
    said = words(charts.forecast_fan(path(150.4, 167.2), mean, {80: around(mean, 0.05), 95: around(mean, 0.1)}, 200))
    assert [text for text in said if "$" in text and not text.startswith("$")] == snapshot(
        ["monthly budget $200", "95 %: $187 to $229", "80 %: $198 to $218"]
    )
    assert {"$167", "$208"} <= {*said}


def test_a_forecast_of_months_names_months_and_the_year_where_it_turns() -> None:
    history = path(88, 104, 121, first="2026-10-01", freq="MS")
    said = words(charts.forecast_fan(history, path(130, 140, first="2027-01-01", freq="MS"), {}))
    assert {"Oct", "2026", "Nov", "Dec", "Jan", "2027", "Feb"} <= {*said}


def test_stored_bytes_are_shown_in_a_suitable_unit() -> None:
    ages = ["up to 7 days", "age unknown"]
    small = pd.DataFrame({"age": ages, "tier": ["free", None], "size_bytes": [3_100_000, 9]})
    said = words(charts.storage(small, ("free", "premium", "pro")))
    assert {"MB", "3.1 MB", "free", "unknown", *ages[:1]} <= {*said}


def test_each_policy_says_what_its_months_come_to_and_what_it_loses() -> None:
    said = words(charts.policies(tried(), {"strict": "3 views lost"}))
    assert {"in force: $42", "Nov", "Dec"} <= {*said}
    assert any("$23.50" in text and "3 views" in text for text in said)


def test_what_a_chart_without_data_says_keeps_the_margins_of_a_phone() -> None:
    none = pd.DataFrame({"day": [], "kind": [], "usd": []})
    for chart in (charts.forecast_fan(path(), path(), {}), charts.savings(none, has_freed=True)):
        drawn = Image.open(io.BytesIO(charts.png(chart, LIGHT, NARROW))).convert("RGB")
        paper = Image.new("RGB", drawn.size, LIGHT.surface)
        left, _, right, _ = ImageChops.difference(drawn, paper).getbbox() or (0, 0, 0, 0)
        assert 20 <= left < right <= drawn.width - 20


def test_a_chart_without_data_says_so() -> None:
    none = spent().astype({"usd": float})
    assert words(charts.spend(none, 10, title="Spend")) == [snapshot("No spend is recorded yet"), "Spend"]
    assert " ".join(words(charts.forecast_fan(path(), path(), {}))) == snapshot(
        "No forecast yet: it needs several days of charges"
    )
    assert words(charts.storage(pd.DataFrame({"age": [], "tier": [], "size_bytes": []}), ("free",))) == [
        snapshot("Nothing is stored yet")
    ]
    none = pd.DataFrame({"day": [], "kind": [], "usd": []})
    assert words(charts.savings(none)) == [snapshot("Nothing has been saved yet")]
    assert words(charts.policies(tried().head(0))) == [snapshot("No full month was simulated")]
    assert " ".join(words(charts.savings(none, has_freed=True))) == snapshot(
        "Bytes were freed; savings count from the next day on"
    )


def test_a_name_from_outside_is_text_and_never_markup() -> None:
    hostile = "<script>alert(1)</script>&\"'"
    svg = charts.svg(charts.spend(spent(3).assign(service=hostile), title=hostile))
    assert "<script" not in svg
    assert "&lt;script" in svg


@pytest.mark.long
@settings(max_examples=10)
@given(
    amounts=st.lists(st.sampled_from([0.0, 1e-6, 0.02, 3.5, 999.99, 1e7, -0.5]), min_size=1, max_size=40),
    budget=st.sampled_from([None, 0.0, 10.0, 1e6]),
)
def test_any_amounts_can_be_drawn(amounts: list[float], budget: float | None) -> None:
    fan = charts.forecast_fan(path(*amounts), path(*amounts, first="2026-12-20"), {}, budget)
    for chart in (charts.spend(spent(*amounts), budget), fan):
        assert "NaN" not in charts.svg(chart, width=NARROW)


@pytest.mark.long
def test_days_are_utc_whatever_the_zone_of_the_machine() -> None:
    program = (
        "import pandas as pd; from reelkeeper.adapters import charts;"
        "days = pd.date_range('2026-11-01', periods=3);"
        "print(charts.svg(charts.forecast_fan(pd.Series([1.0, 2, 3], index=days), pd.Series(dtype=float), {})))"
    )
    drawn = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"TZ": zone},
            capture_output=True,
            text=True,
            check=True,
            timeout=280,
        ).stdout
        for zone in ("America/Los_Angeles", "Pacific/Auckland")
    ]
    assert drawn[0] == drawn[1]
    assert "1 Nov" in drawn[0]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_everybody_can_read_the_words_and_tell_the_services_apart(theme: Theme) -> None:
    assert all(contrast(colour, theme.surface) >= 4.5 for colour in (theme.ink, theme.soft_ink, theme.limit))
    assert contrast(theme.line, theme.surface) >= 3
    pairs = [*itertools.combinations(theme.services[:-1], 2), *itertools.pairwise(theme.tiers)]
    nearest = min((apart(text, other, sight), text, other, sight) for text, other in pairs for sight in SIGHTS)
    assert nearest[0] >= 12, nearest
