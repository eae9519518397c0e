"""What a scan's figures come to in dollars, against bills made by hand from Cloudflare's price list."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.scan import Clip, Folders, Kind, Part, Sample, Verdict
from reelkeeper.rules.billing.pricing import bill
from reelkeeper.rules.lifecycle.levers import Found, Kept, kind_of, levers, list_usd, nothing_under, remarks, usage_of
from reelkeeper.rules.lifecycle.worth import Payback

GB = 10**9
ZERO = Decimal(0)
NONE = Part("")
PRIOR = Kept.of(None, "h264")


def found(
    gigabytes: float,
    objects: int = 50_000,
    *,
    unfinished: Part | None = NONE,
    orphans: Part | None = NONE,
    **parts: Part,
) -> Found:
    total = Part("", objects, round(gigabytes * GB))
    in_all = total._replace(size_bytes=total.size_bytes + (unfinished.size_bytes if unfinished else 0))
    return Found(
        in_all,
        parts.get("videos", total),
        parts.get("old", total),
        parts.get("old_videos", total),
        parts.get("duplicates", NONE),
        unfinished,
        orphans,
    )


def named(stored: Found, kept: Kept = PRIOR) -> dict[str, tuple[Decimal, Decimal, Verdict]]:
    return {one.name: (one.usd_a_month, one.once_usd, one.verdict) for one in levers(stored, kept, Payback())}


def test_a_terabyte_of_old_videos() -> None:
    """990 GB above the free ten cost $14.85; 350 GB $5.10; 1,000 GB of Infrequent Access, never free, $10."""
    made = named(found(1000))
    assert bill(usage_of(found(1000).total)).billed_usd == Decimal("14.85")
    assert made["compress"][0] == Decimal("9.75")
    assert made["compress"][2] is Verdict.WORTH
    assert made["infrequent_access"] == (Decimal("4.85"), Decimal("9.00"), Verdict.WORTH)
    assert made["retire_unwatched"] == (Decimal("14.85"), ZERO, Verdict.UNKNOWN)
    assert made["remove_duplicates"] == (ZERO, ZERO, Verdict.NOT_WORTH)


def test_the_largest_stands_first_and_what_nobody_knows_last() -> None:
    made = levers(found(1000, duplicates=Part("", 9, 500 * GB)), PRIOR, Payback())
    assert [lever.name for lever in made][:3] == ["compress", "remove_duplicates", "infrequent_access"]
    assert made[-1].verdict is Verdict.UNKNOWN


def test_nothing_is_worth_it_within_the_free_allowance() -> None:
    stored = found(9.9, duplicates=Part("", 3, 5 * GB))
    assert {verdict for _, _, verdict in named(stored).values()} == {Verdict.NOT_WORTH, Verdict.UNKNOWN}
    assert max(usd for usd, _, _ in named(stored).values()) == 0
    assert named(stored)["infrequent_access"][0] == Decimal("-0.10")  # where nothing is free


def test_infrequent_access_does_not_pay_below_what_its_transitions_cost() -> None:
    """120 GB save .01 x 120 of 1.65, and a million transitions cost $9: 20 months."""
    assert named(found(120))["infrequent_access"][1:] == (Decimal("9.00"), Verdict.NOT_WORTH)
    assert named(found(1000, objects=1_000_001))["infrequent_access"][1] == Decimal("18.00")


def test_unfinished_uploads_are_billed_and_unknown_is_not_zero() -> None:
    assert named(found(1000, unfinished=Part("", 2, 200 * GB)))["abort_uploads"] == (
        Decimal("3.00"),
        ZERO,
        Verdict.WORTH,
    )
    unknown = named(found(1000, unfinished=None, orphans=None))
    assert {unknown[name][2] for name in ("abort_uploads", "remove_images")} == {Verdict.UNKNOWN}


def test_a_sample_takes_the_place_of_the_prior() -> None:
    clips = (Clip("a", 1000, 400, "accepted", 2.0), Clip("b", 1000, 1000, "efficient_codec"))
    kept = Kept.of(Sample(7, clips), "h264")
    assert (kept.share, kept.cpu_seconds_a_byte) == (0.7, 0.001)
    assert Kept.of(Sample(7, ()), "h264") == PRIOR
    assert named(found(1000), kept)["compress"][2] is Verdict.NOT_WORTH  # 278 hours of CPU for $4.50 a month


@given(
    st.floats(0, 10**5),
    st.integers(0, 10**7),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_no_lever_saves_more_than_the_bill(gigabytes: float, objects: int, shares: list[float]) -> None:
    size_bytes = round(gigabytes * GB)
    old, videos, duplicates, orphans = (Part("", objects, int(size_bytes * share)) for share in shares)
    stored = found(gigabytes, objects, videos=videos, old=old, duplicates=duplicates, orphans=orphans, old_videos=old)
    billed = bill(usage_of(stored.total)).billed_usd
    for lever in levers(stored, PRIOR, Payback()):
        assert lever.usd_a_month <= billed
        assert lever.verdict is not Verdict.WORTH or lever.usd_a_month >= 1
    known = [lever.usd_a_month for lever in levers(stored, PRIOR, Payback()) if lever.verdict is not Verdict.UNKNOWN]
    assert known == sorted(known, reverse=True)


def test_infrequent_bytes_have_their_own_price() -> None:
    assert list_usd(Part("", 1, 100 * GB, 40 * GB)) == Decimal("1.3")
    assert bill(usage_of(Part("", 1, 100 * GB, 40 * GB))).billed_usd == Decimal("0.015") * 50 + Decimal("0.4")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a/b.MP4", Kind.VIDEO),
        ("a/b.m3u8", Kind.PLAYLIST),
        ("a/b.ts", Kind.SEGMENT),
        ("a.jpeg", Kind.IMAGE),
        ("a/", Kind.FOLDER),
        ("mp4", Kind.OTHER),
        ("a.bin", Kind.OTHER),
    ],
)
def test_kinds(key: str, kind: Kind) -> None:
    assert kind_of(key) is kind


def test_patterns_that_give_one_user_everything_are_told() -> None:
    def told(objects: int) -> int:
        return len(list(remarks(Part("", 100), [Part("u", objects)], Decimal(0), [])))

    assert told(95) == told(50) + 1


def test_the_largest_lever_is_told_with_its_dollars_or_the_least_that_one_must_bring() -> None:
    for size, dollars in ((1000, "$9.75"), (50, "$1.00")):
        stored = found(size)
        told = list(remarks(stored.total, [], Decimal(15), levers(stored, PRIOR, Payback())))
        assert [line.count(dollars) for line in told if "$" in line] == [1]


def test_where_the_objects_are_is_said_with_their_number() -> None:
    found = Folders([Part("v/", 1000, 5), Part("u/", 264, 5)], outside=Part("", 1, 5))
    text = nothing_under("videos/", found, 1000)
    assert {"videos/", "u/", "(264", "(1,000"} <= {*text.replace(";", "").split()}
    assert "no folder" not in text  # which reads as if the bucket had none


def test_folders_that_are_not_named_are_counted() -> None:
    """A list that ends after some folders, without a word, reads as if the biggest were not there."""
    counted = [Part(f"f{n}/", 30 - n) for n in range(12)]
    words = nothing_under("videos/", Folders(counted, ["x/", "y/"]), 1000).replace("(", "").split()
    assert [word for word in words if word.startswith("f")][:8] == [f"f{n}/" for n in range(8)]
    assert ("f8/" in words, "6" in words, "2" in words) == (False, True, True)  # more folders; not counted
    assert "or" not in words
    assert "or" in nothing_under("videos/", Folders(counted, is_complete=False), 1000).split()


def test_a_sample_says_by_which_rule_clips_would_stay_as_they_are() -> None:
    clips = (
        Clip("a.mp4", 100, 100, "not_smaller"),
        Clip("b.mp4", 100, 40, "accepted"),
        Clip("c.mp4", 9, 9, "not_smaller"),
    )
    assert "2 not smaller" in Kept.of(Sample(7, clips), "h264").source
    assert "accepted" not in Kept.of(Sample(7, clips[1:2]), "h264").source
