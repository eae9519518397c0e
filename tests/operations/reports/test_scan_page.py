"""A scan's page and tables say by what they count, add up, and load nothing."""

import re

from hypothesis import given, settings
from inline_snapshot import snapshot

from reelkeeper.model import StoredObject
from reelkeeper.operations.reports.scan_page import figures, page, tiles
from tests.operations.reports.test_scan import AS_OF, OBJECTS, Listed, scanned


def test_the_months_shown_and_those_before_add_up_to_all() -> None:
    def shown(months: int) -> list[list[str]]:
        stored = [
            StoredObject(f"{2024 + n // 12}/{n % 12 + 1:02}/v.mp4", 5, "e", AS_OF) for n in range(34 - months, 34)
        ]
        tables = figures(scanned(Listed(stored), "{year}/{month}/{video}.{ext}"))
        return next([[*map(str, row[:2])] for row in table.rows] for table in tables if table.headings[0] == "Month")

    assert [name for name, _ in shown(12)] == [f"2025-{n:02}" for n in (11, 12)] + [
        f"2026-{n:02}" for n in range(1, 11)
    ]
    assert shown(30) == [["before 2025-11", "18"], *shown(12)]


def test_growth_names_the_whole_months_of_which_it_is_the_mean() -> None:
    """A gigabyte a month until September, four in October; this month, November, is not over."""
    months = [("03", 9), ("08", 1), ("09", 1), ("10", 4), ("11", 50)]
    stored = [StoredObject(f"2026/{month}/v.mp4", size * 10**9, month, AS_OF) for month, size in months]
    found = scanned(Listed(stored), "{year}/{month}/{video}.{ext}")
    assert next(tile.note for tile in tiles(found) if tile.label == "Stored") == snapshot(
        "2.0 GB more a month, the mean of 2026-08, 2026-09 and 2026-10, the last whole months with any"
    )


def test_what_there_is_to_look_at_has_examples() -> None:
    whole, empty = (StoredObject(f"{name}.mp4", size, name, AS_OF) for name, size in (("a", 5), ("b", 0)))
    *_, findings, examples = figures(scanned(Listed([whole, empty]), "{video}.{ext}"))
    named = [str(row[0]).split()[0] for row in examples.rows]
    assert (named.count("a.mp4"), named.count("b.mp4")) == (1, 2)  # the biggest, and the one without bytes once more
    assert len(findings.rows) == 5


def test_a_page_says_by_what_the_ages_are() -> None:
    dated = [StoredObject(f"2026/0{month}/v.mp4", 5, "e", AS_OF) for month in range(1, 5)]
    plain = [StoredObject("logo.png", 5, "e", AS_OF)]

    def said(*objects: StoredObject) -> tuple[int, list[str]]:
        found = scanned(Listed([*objects]), "{year}/{month}/{video}.{ext}")
        return found.dated.objects, sorted({*re.findall(r"By (?:the|when|last)[^.]*\.", page(found))})

    assert said(*dated) == snapshot((4, ["By the date in each key."]))
    assert said(*plain) == snapshot((0, ["By the time it was last written."]))
    assert said(*dated, *plain) == snapshot(
        (4, ["By the date in each key where the pattern has one, by last write for the other 1."])
    )


@settings(max_examples=settings().max_examples // 10)  # each example draws its charts
@given(OBJECTS)
def test_a_page_loads_nothing_and_shows_keys_as_text(objects: list[StoredObject]) -> None:
    hostile = StoredObject("<script>/&.mp4", 10**12, "e", AS_OF)
    text = page(scanned(Listed([*objects[:4], hostile])))
    assert "<script" not in text
    assert "&lt;script" in text
    assert "http" not in text.replace("http-equiv", "")
