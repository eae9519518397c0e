"""Patterns of keys: what they parse, and what is refused beforehand."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model.key_patterns import KeyParts, KeyPattern, compiled

AT = {
    "2026": datetime(2027, 1, 1, 12, tzinfo=UTC),
    "2026-02": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "2026-12": datetime(2027, 1, 1, 12, tzinfo=UTC),
    "2026-12-31": datetime(2027, 1, 1, 12, tzinfo=UTC),
    "2026-02-07": datetime(2026, 2, 8, 12, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("pattern", "key", "parts"),
    [
        ("{user}/{video}.{ext}", "ann/one.two.mp4", ("ann", "one.two", "mp4", None)),
        ("{user}/{video}.{ext}", "ann/one/two.mp4", None),
        ("{user}/{video}/{any}.{ext}", "ann/one/the last.cut.MOV", ("ann", "one", "MOV", None)),
        ("{any}/{any}/{user}/{video}.{ext}", "a/b/ann/one.mp4", ("ann", "one", "mp4", None)),
        ("users/{user}/outputs/{video}.{ext}", "users/ann/outputs/é 1.mp4", ("ann", "é 1", "mp4", None)),
        ("users/{user}/outputs/{video}.{ext}", "users/ann/inputs/1.mp4", None),
        ("{video}.{ext}", "one.mp4", (None, "one", "mp4", None)),
        ("{user}-{video}.{ext}", "ann-one-two.mp4", ("ann", "one-two", "mp4", None)),
        ("{user}__{video}.{ext}", "a_b__c_d.mp4", ("a_b", "c_d", "mp4", None)),
        ("{user}/{video}/source.{ext}", "ann/one/source.mp4", ("ann", "one", "mp4", None)),
        ("{user}/{video}_hd.{ext}", "ann/one_hd.mp4", ("ann", "one", "mp4", None)),
        ("{user}/{video}.{ext}", "ann/.one.mp4", None),
        ("{user}/{video}.{ext}", "ann/one.muchtoolong", None),
        ("g/{year}/{month}/{video}.{ext}", "g/2026/02/one.mp4", (None, "one", "mp4", AT["2026-02"])),
        ("g/{year}/{month}/{video}.{ext}", "g/2026/2/one.mp4", (None, "one", "mp4", AT["2026-02"])),
        ("g/{year}/{month}/{video}.{ext}", "g/2026/13/one.mp4", None),
        ("{year}{month}{day}/{user}/{video}.{ext}", "20261231/ann/one.mp4", ("ann", "one", "mp4", AT["2026-12-31"])),
        ("{year}{month}{day}/{user}/{video}.{ext}", "2026131/ann/one.mp4", None),
        (
            "{year}-{month}-{day}_{user}/{video}.{ext}",
            "2026-02-07_ann/one.mp4",
            ("ann", "one", "mp4", AT["2026-02-07"]),
        ),
        ("{year}/{month}/{day}/{video}.{ext}", "2026/02/31/one.mp4", (None, "one", "mp4", AT["2026-02"])),
        ("{year}/{month}/{day}/{video}.{ext}", "2026/12/31/one.mp4", (None, "one", "mp4", AT["2026-12"])),
        ("{year}/{user}/{video}.{ext}", "2026/ann/one.mp4", ("ann", "one", "mp4", AT["2026"])),
        ("{year}/{user}/{video}.{ext}", "٢٠٢٦/ann/one.mp4", None),
    ],
)
def test_a_key_is_read(pattern: str, key: str, parts: tuple[str | None, str, str, datetime | None] | None) -> None:
    assert KeyPattern.of(pattern).read(key) == (KeyParts(*parts) if parts else None)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (
            "{user}/x.{ext}",
            snapshot("pattern '{user}/x.{ext}' has no {video}, so it cannot say which video a key is of"),
        ),
        ("{user}/{video}", snapshot("pattern '{user}/{video}' does not end in .{ext}, as the keys of videos do")),
        (
            "{user}/{video}.mp4",
            snapshot("pattern '{user}/{video}.mp4' does not end in .{ext}, as the keys of videos do"),
        ),
        (
            "{user}/{video}{ext}",
            snapshot("pattern '{user}/{video}{ext}' does not end in .{ext}, as the keys of videos do"),
        ),
        ("{user}/{ext}/{video}.{ext}", snapshot("pattern '{user}/{ext}/{video}.{ext}' has the part {ext} twice")),
        ("{video}/{video}.{ext}", snapshot("pattern '{video}/{video}.{ext}' has the part {video} twice")),
        (
            "{tenant}/{video}.{ext}",
            snapshot(
                "pattern '{tenant}/{video}.{ext}' has the unknown part {tenant}; there are {user}, {video}, {ext}, {year}, {month}, {day}, {any}"
            ),
        ),
        (
            "{}/{video}.{ext}",
            snapshot(
                "pattern '{}/{video}.{ext}' has the unknown part {}; there are {user}, {video}, {ext}, {year}, {month}, {day}, {any}"
            ),
        ),
        ("{user/{video}.{ext}", snapshot("pattern '{user/{video}.{ext}' has a brace that does not belong to a part")),
        (
            "{user}}/{video}.{ext}",
            snapshot("pattern '{user}}/{video}.{ext}' has a brace that does not belong to a part"),
        ),
        (
            "{user}{video}.{ext}",
            snapshot(
                "pattern '{user}{video}.{ext}' has nothing between {user} and {video}, so nothing says where one ends"
            ),
        ),
        (
            "{user}{year}/{video}.{ext}",
            snapshot(
                "pattern '{user}{year}/{video}.{ext}' has nothing between {user} and {year}, so nothing says where one ends"
            ),
        ),
        (
            "{year}/{day}/{video}.{ext}",
            snapshot("pattern '{year}/{day}/{video}.{ext}' has {day} without {month}, which is no date"),
        ),
        (
            "{month}/{video}.{ext}",
            snapshot("pattern '{month}/{video}.{ext}' has {month} without {year}, which is no date"),
        ),
        (
            "/{user}/{video}.{ext}",
            snapshot(
                "pattern '/{user}/{video}.{ext}' has an empty segment, a backslash or a control character, which no key of a video has"
            ),
        ),
        (
            "{user}//{video}.{ext}",
            snapshot(
                "pattern '{user}//{video}.{ext}' has an empty segment, a backslash or a control character, which no key of a video has"
            ),
        ),
        (
            "{user}\\{video}.{ext}",
            snapshot(
                "pattern '{user}\\\\{video}.{ext}' has an empty segment, a backslash or a control character, which no key of a video has"
            ),
        ),
    ],
)
def test_a_malformed_pattern_is_named_with_what_is_wrong(pattern: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="pattern ") as refused:
        compiled(["{video}.{ext}", pattern])
    assert str(refused.value) == complaint


def test_at_least_one_pattern_is_required_and_duplicates_are_refused() -> None:
    with pytest.raises(ValueError, match="pattern"):
        compiled([])
    with pytest.raises(ValueError, match="twice"):
        compiled(["{video}.{ext}", "{video}.{ext}"])


def test_no_key_makes_a_pattern_slow() -> None:
    pattern = KeyPattern.of("{any}-{any}-{any}-{user}-{any}-{any}-{video}.{ext}")
    began = time.process_time()
    for key in ("-" * 1024, "a-" * 512, "a" * 1020 + ".mp4", "a-" * 505 + "é"):
        pattern.read(key)
    assert time.process_time() - began < 1


@given(
    st.text(st.characters(exclude_characters="/{}\\", exclude_categories=["C", "Z"]), min_size=1).filter(
        lambda t: t[0] != "."
    )
)
def test_any_name_within_a_segment_is_read_as_it_is(name: str) -> None:
    parts = KeyPattern.of("{user}/{video}.{ext}").read(f"{name}/{name}.mp4")
    assert parts == KeyParts(name, name, "mp4", None)
