"""A scan's figures equal an independent count: of made-up listings, and of what boto3 lists on other S3 servers."""

import errno
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.errors import StorageError
from reelkeeper.model import Refusal, StoredObject
from reelkeeper.model.key_patterns import DEFAULT_PATTERNS, compiled
from reelkeeper.model.scan import AGES, OLDER, Kind, Part, Scan, Verdict
from reelkeeper.operations.reports import scan as operation
from reelkeeper.operations.reports.scan_page import figures, headline, page, tiles
from reelkeeper.rules.lifecycle.worth import Payback
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.sync.census import Census
from tests.adapters.contract import miniflare
from tests.buckets import BUCKET, bare_boto3
from tests.doubles.r2 import R2Double

AS_OF = datetime(2026, 11, 29, 12, tzinfo=UTC)
TERMS = operation.Terms(compiled(("{user}/{video}.{ext}",)), AdoptionLimits(), AS_OF, "h264", Payback())
OBJECTS = st.lists(
    st.builds(
        StoredObject,
        st.builds(
            "{}/{}{}".format,
            st.sampled_from(["ann", "bob", "zoe k", "é"]),
            st.sampled_from(["v1", "v2", "v1-thumb", "v2_poster", "x"]),
            st.sampled_from([".mp4", ".MOV", ".jpg", ".m3u8", "", ".bin", "/"]),
        ),
        st.sampled_from([0, 1, 10, 10**9]),
        st.sampled_from(["e1", "e2", "e3-2"]),
        st.integers(0, 1400).map(lambda days: AS_OF - timedelta(days=days)),
        st.sampled_from(["", "STANDARD_IA"]),
    ),
    unique_by=lambda stored: stored.key,
)


class Listed:
    """A bucket of which only a listing is known."""

    name, prefix, scope = "b", "", "/"

    def __init__(self, objects: list[StoredObject], ends: BaseException | None = None) -> None:
        self._objects, self._ends = objects, ends

    def look(self) -> "Listed":
        return self

    def pages(self) -> Iterator[list[StoredObject]]:
        for start in range(0, len(self._objects), 3):
            yield self._objects[start : start + 3]
        if self._ends:
            raise self._ends

    def unfinished(self) -> Part:
        return Part("", 0, 0)

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(key.encode())


def scanned(bucket: Any, *patterns: str) -> Scan:  # noqa: ANN401  a bucket, or what looks like one
    terms = TERMS._replace(layout=compiled(patterns)) if patterns else TERMS
    return operation.scan(bucket, terms, tell=lambda _: None, stop=operation.Stop())


@given(OBJECTS)
def test_figures_equal_an_independent_count(objects: list[StoredObject]) -> None:
    found = scanned(Listed(objects))
    sizes = Counter[str]()
    for stored in objects:
        sizes["all"] += stored.size_bytes
        sizes["infrequent"] += stored.size_bytes * (stored.storage_class != "")
        sizes[f"user {stored.key.split('/')[0]}" if "." in stored.key else "no user"] += stored.size_bytes
        sizes[f"folder {stored.key.split('/')[0]}/"] += stored.size_bytes
        sizes[f"month {stored.last_modified:%Y-%m}"] += stored.size_bytes
    assert found.total[1:] == (len(objects), sizes["all"], sizes["infrequent"])
    for parts in (
        found.kinds,
        found.users,
        found.folders,
        *([part for _, part in ps] for ps in (found.ages, found.months)),
    ):
        assert sum(part.objects for part in parts) == len(objects)
        assert sum(part.size_bytes for part in parts) == sizes["all"]
        assert sum(part.infrequent_bytes for part in parts) == sizes["infrequent"]
    assert {f"user {part.name}": part.size_bytes for part in found.users if part.name != "no user"} == {
        name: sizes[name] for name in {f"user {stored.key.split('/')[0]}" for stored in objects if "." in stored.key}
    }
    months = defaultdict[str, int](int)
    for month, part in found.months:
        months[f"month {month}"] += part.size_bytes
    assert months == {name: sizes[name] for name in months}
    copies = Counter((stored.size_bytes, stored.etag) for stored in objects if stored.size_bytes)
    assert found.duplicates.objects == sum(count - 1 for count in copies.values())
    assert found.duplicates.size_bytes == sum((count - 1) * size for (size, _), count in copies.items())
    assert found.empty.objects == sum(not s.size_bytes and not s.key.endswith("/") for s in objects)
    assert [item.size_bytes for item in found.biggest] == sorted((s.size_bytes for s in objects), reverse=True)[:5]
    assert list(figures(found))


def test_images_of_videos_that_are_gone() -> None:
    def orphans(*keys: str) -> tuple[int, int] | None:
        found = scanned(Listed([StoredObject(key, 5, key, AS_OF) for key in keys])).orphans
        return None if found is None else (found.objects, found.size_bytes)

    with_video = ("a/1.mp4", "a/1.jpg", "a/2.mp4", "a/2-thumb_640x360.webp", "a/3.png", "a/3.webm")
    assert orphans(*with_video) == (0, 0)
    assert orphans(*with_video, "a/4.jpg", "b/1.jpg") == (2, 10)
    assert orphans("a/1.mp4", "a/poster-of-1.jpg") is None  # names say nothing here
    assert orphans("a/1.mp4") == (0, 0)


def test_images_that_no_pattern_reads_do_not_count_as_images_with_their_video() -> None:
    """Thumbnails beside the folders of months; a pattern for them compares their names within the user."""
    videos = [f"u/{user}/2026/0{n}/{user}{n}.mp4" for user in ("ann", "bob") for n in range(1, 9)]
    thumbs = [f"u/{user}/thumbs/{name}.jpg" for user, name in (("ann", "ann1"), ("ann", "ann2"), ("bob", "ann1"))]
    dated, beside = "u/{user}/{year}/{month}/{video}.{ext}", "u/{user}/thumbs/{video}.{ext}"

    def found(keys: list[str], *patterns: str) -> Scan:
        return scanned(Listed([StoredObject(key, 5, key, AS_OF) for key in keys]), *patterns)

    unread = found([*videos, *thumbs], dated)
    assert unread.orphans is None
    assert [lever.verdict for lever in unread.levers if lever.name == "remove_images"] == [Verdict.UNKNOWN]
    read = found([*videos, *thumbs], dated, beside).orphans  # bob has no video `ann1`
    assert read
    assert read.objects == 1
    few = found([*videos, *thumbs, *(key.replace("mp4", "jpg") for key in videos)], dated).orphans
    assert few
    assert (few.objects, "3" in few.name.split()) == (0, True)


def test_a_date_in_the_key_is_older_than_a_copy_of_the_bucket() -> None:
    terms = TERMS._replace(layout=compiled(("{year}/{month}/{video}.{ext}",)))
    stored = [StoredObject(f"2024/0{month}/v.mp4", 5, "e", AS_OF) for month in (3, 4)]
    bucket: Any = Listed(stored)
    found = operation.scan(bucket, terms, tell=lambda _: None, stop=operation.Stop())
    assert [age for age, _ in found.ages] == snapshot(["over a year"])


@pytest.mark.parametrize(
    ("pattern", "key", "stored", "month", "age"),
    [
        ("{year}/{month}/{video}.{ext}", "2025/11/v.mp4", AS_OF, "2025-11", AGES[3][1]),  # by its end, as a sync
        ("{year}-{month}-{day}-{video}.{ext}", "2025-11-30-v.mp4", AS_OF, "2025-11", AGES[3][1]),
        ("{year}/{month}/{video}.{ext}", "2025/12/v.mp4", datetime(2025, 11, 30, 20, tzinfo=UTC), "2025-11", None),
        ("{year}/{month}/{video}.{ext}", "2025/11/v.mp4", datetime(2025, 12, 1, 3, tzinfo=UTC), "2025-11", None),
        ("{year}/{video}.{ext}", "2025/v.mp4", AS_OF, "2025", AGES[3][1]),
        ("{year}/{video}.{ext}", "2025/v.mp4", datetime(2025, 3, 1, tzinfo=UTC), "2025-03", OLDER),
        ("{video}.{ext}", "v.mp4", AS_OF, "2026-11", AGES[0][1]),
    ],
)
def test_an_object_counts_in_the_month_of_its_key(
    pattern: str, key: str, stored: datetime, month: str, age: str | None
) -> None:
    found = scanned(Listed([StoredObject(key, 5, "e", stored)]), pattern)
    assert [name for name, _ in found.months] == [month]
    assert age in {None, found.ages[0][0]}
    assert page(found)


def test_ages_are_told_by_the_date_in_a_key_only_where_a_pattern_reads_one() -> None:
    pattern = "{year}/{month}/{video}.{ext}"
    stored = [StoredObject(key, 5, "e", AS_OF) for key in ("2025/11/v.mp4", "2025/12/v.mp4", "v.mp4")]
    some, every = scanned(Listed(stored), pattern), scanned(Listed(stored[:2]), pattern)
    none = scanned(Listed(stored), "{user}/{video}.{ext}")
    assert (some.dated.objects, some.dated.size_bytes, none.dated.objects) == (2, 10, 0)
    assert len({some.basis, every.basis, none.basis}) == 3


@pytest.mark.parametrize("place", range(len(AGES)))
def test_an_age_is_that_of_its_last_whole_day_as_in_reports(place: int) -> None:
    """By the calendar it would be a day older from midnight on; `test_videos.py` asks the same of reports."""
    (last_days, label), older = AGES[place], (*(label for _, label in AGES), OLDER)[place + 1]
    ends = AS_OF - timedelta(days=last_days + 1)
    for stored_at, expected in ((ends + timedelta(microseconds=1), label), (ends, older)):
        found = scanned(Listed([StoredObject("ann/v.mp4", 5, "e", stored_at)]))
        assert [age for age, _ in found.ages] == [expected]


def test_where_patterns_do_not_fit_users_and_images_without_their_video_are_unknown() -> None:
    """By the default patterns, each user of u/ is one video, and the logo an image whose video is gone."""
    keys = [f"u/{user}/{n}.{end}" for user in ("ann", "bob") for n in range(9) for end in ("mp4", "jpg")]
    bucket = Listed([StoredObject(key, 5, key, AS_OF) for key in (*keys, "u/bob/gone.jpg", "site/logo.png")])
    found = scanned(bucket, *DEFAULT_PATTERNS)
    assert (found.users, found.known_users, found.orphans) == ([], None, None)
    assert "User" not in {table.headings[0] for table in figures(found)}
    assert len([line for line in found.remarks if {"--pattern", "16"} <= {*line.replace(",", "").split()}]) == 1
    fitting = scanned(bucket, "u/{user}/{video}.{ext}")
    assert (fitting.known_users, fitting.orphans and fitting.orphans.objects) == (2, 1)
    assert len(fitting.remarks) == len(found.remarks) - 1


@pytest.mark.parametrize(
    ("keys", "figures"),
    [
        (
            [*(f"2026/{month}/{n}.mp4" for month in (9, 10) for n in range(3)), f"a/v/g1-{'0' * 16}.mp4"],
            {"4", "6", "67"},
        ),
        ([*(f"ann/all/{n}.mp4" for n in range(21)), *(f"b/{n}.mp4" for n in range(40))], {"21", "'all'"}),
        ([f"generations/{n:05}.mp4" for n in range(3_000)], {"3,000", "100", "'generations'"}),
    ],
)
def test_a_scan_has_the_figures_by_which_a_sync_refuses_the_same_keys(keys: list[str], figures: set[str]) -> None:
    """`test_layouts.py` has those of the sync."""
    told = scanned(Listed([StoredObject(key, 5, key, AS_OF) for key in keys]), *DEFAULT_PATTERNS).remarks[0]
    assert figures <= {*told.replace("(", "").replace(", ", " ").split()}


def test_where_most_videos_have_no_user_nobody_is_shown_as_one() -> None:
    deep, shallow = [f"u/ann/2026/01/{n}.mp4" for n in range(5)], [f"ann/{n}.mp4" for n in range(5)]
    segments = [f"hls/ann/2026/{n}.ts" for n in range(30)]

    def found(keys: list[str], *patterns: str) -> Scan:
        return scanned(Listed([StoredObject(key, 5, key, AS_OF) for key in keys]), *patterns)

    unfit, fitting = (
        found([*deep, "logs/app.log", "u/copy.mp4"], *DEFAULT_PATTERNS),
        found(deep, "{user}/{any}/{year}/{month}/{video}.{ext}"),
    )
    assert (unfit.users, unfit.known_users) == ([], None)
    assert {"5", "6", "--pattern,"} <= {*unfit.remarks[0].split()}
    assert len(unfit.remarks) == len(fitting.remarks) + 1
    assert found([*deep[1:], *shallow, *segments], *DEFAULT_PATTERNS).known_users == 1  # as many objects as have none
    assert found(deep, "u/ann/{year}/{month}/{video}.{ext}").remarks == fitting.remarks  # no pattern asks for users


@pytest.mark.parametrize("name", ["ann/clip-{}.mp4", "ann/v/g{}-0123456789abcdef.mp4", "ann/v/{}.jpg"])
def test_patterns_fit_numbered_videos_generations_of_our_own_and_images(name: str) -> None:
    bucket = Listed([StoredObject(name.format(n), 5, str(n), AS_OF) for n in range(1, 30)])
    assert scanned(bucket, *DEFAULT_PATTERNS).known_users == 1


def test_a_pattern_that_repeats_the_prefix_is_told_as_it_should_be() -> None:
    """The objects of 0 bytes count as videos here as in the table."""
    bucket = Listed([StoredObject(f"u/ann/{n}.mp4", 5 * n, str(n), AS_OF) for n in range(3)])
    bucket.prefix = bucket.scope = "u/"
    assert [line for line in scanned(bucket, "u/{user}/{video}.{ext}").remarks if "{user}" in line] == snapshot(
        [
            "The patterns of keys do not fit this bucket: 3 of 3 videos have no user by them. So users are unknown: write the pattern u/{user}/{video}.{ext} without the prefix, {user}/{video}.{ext}."
        ]
    )
    fitting, other = scanned(bucket, "{user}/{video}.{ext}"), scanned(bucket, "x/{user}/{video}.{ext}")
    assert fitting.known_users == 1
    assert not any("{user}" in line for line in (*fitting.remarks, *other.remarks))
    assert len(fitting.remarks) == len(other.remarks) - 1


def test_keys_of_our_own_have_their_user_under_any_pattern() -> None:
    stored = [StoredObject(f"ann/v1/g2-{'0' * 16}.mp4", 5, "e", AS_OF), StoredObject("x/y/z.mp4", 5, "f", AS_OF)]
    assert {part.name: part.objects for part in scanned(Listed(stored)).users} == snapshot({"ann": 1, "no user": 1})


def test_a_copied_bucket_is_told_by_its_one_day() -> None:
    one_day = scanned(Listed([StoredObject(f"a/{n}.mp4", 5, str(n), AS_OF) for n in range(30)]))
    days = [StoredObject(f"a/{n}.mp4", 5, str(n), AS_OF - timedelta(days=n)) for n in range(30)]
    assert len(one_day.remarks) == len(scanned(Listed(days)).remarks) + 1


@pytest.mark.parametrize(("ends", "stopped"), [(KeyboardInterrupt(), "interrupted"), (StorageError("away"), "away")])
def test_what_is_known_is_kept_when_the_listing_ends_early(ends: BaseException, stopped: str) -> None:
    found = scanned(Listed([StoredObject(f"a/{n}.mp4", 5, "e", AS_OF) for n in range(6)], ends))
    assert (found.stopped, found.total.objects, found.unfinished, found.orphans) == (stopped, 6, None, None)
    assert not found.is_listed
    assert stopped in headline(found)


def test_an_interrupted_sample_changes_nothing_that_the_listing_knows(tmp_path: Path) -> None:
    keys = [f"a/{n}.{end}" for n in range(6) for end in ("mp4", "jpg")]
    bucket: Any = Listed([StoredObject(key, 5, key, AS_OF) for key in (*keys, "a/gone.jpg")])

    def sampled(clips: int) -> Scan:
        """Interrupt the second clip, if there is one."""
        stop = operation.Stop()

        def encode(source: Path, _: Path) -> tuple[Refusal, None]:
            if source.exists() and encoded:
                stop()
            encoded.append(source)
            return Refusal("efficient_codec", ""), None

        encoded = list[Path]()
        sampling = operation.Sampling(clips, 7, tmp_path, encode)
        return operation.scan(bucket, TERMS, tell=lambda _: None, stop=stop, sampling=sampling)

    whole, part = sampled(1), sampled(4)
    assert (whole.stopped, part.stopped) == ("", "interrupted")
    assert part.sample
    assert (len(part.sample.clips), part.sample.untried) == (1, 3)
    assert part.is_listed
    assert (part.orphans, part.levers) == (whole.orphans, whole.levers)
    assert whole.orphans
    assert whole.orphans.objects == 1
    assert headline(part) == headline(whole)
    assert tiles(part) == tiles(whole)
    assert [line for line in part.remarks if line not in whole.remarks] == snapshot(
        ["The listing is complete; the sample was interrupted after 1 of 4 videos."]
    )


def test_a_video_of_the_sample_that_fills_the_disk_costs_nothing_else(tmp_path: Path) -> None:
    def encode(source: Path, _: Path) -> tuple[Refusal, None]:
        if not tried:
            tried.append(source)
            raise OSError(errno.ENOSPC, "No space left on device")
        return Refusal("efficient_codec", ""), None

    tried = list[Path]()
    bucket: Any = Listed([StoredObject(f"a/{n}.mp4", 5, f"{n}", AS_OF) for n in range(3)])
    sampling = operation.Sampling(3, 7, tmp_path, encode)
    found = operation.scan(bucket, TERMS, tell=lambda _: None, stop=operation.Stop(), sampling=sampling)
    assert found.sample
    assert (len(found.sample.clips), len(found.sample.failed), found.sample.untried) == (2, 1, 0)
    assert (found.total.objects, found.stopped) == (3, "")


def test_a_bucket_that_never_answers_is_an_error() -> None:
    with pytest.raises(StorageError):
        scanned(Listed([], StorageError("away")))


def test_a_signal_waits_until_a_page_is_counted() -> None:
    stop = operation.Stop()
    stop()
    with pytest.raises(KeyboardInterrupt):
        stop.during(lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        stop.during(stop)


def test_a_draw_is_repeated_by_its_seed() -> None:
    with closing(Census()) as census:
        census.add(operation._Counts(TERMS, "").entries([StoredObject(f"a/{n}.mp4", 1, "e", AS_OF) for n in range(99)]))
        drawn = census.draw(10, 7)
        assert (len({*drawn}), census.draw(10, 7), len(census.draw(1000, 7))) == (10, drawn, 99)
        assert census.draw(10, 8) != drawn


SERVERS = ["double", "seaweed", "moto", "miniflare"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, seaweed.Endpoint]]:
    """R2's rules before SeaweedFS, SeaweedFS as it is, moto, and Cloudflare's simulator."""
    if request.param == "miniflare":
        with miniflare.running(request.getfixturevalue("tmp_path"), BUCKET) as address:
            yield request.param, seaweed.Endpoint(*address)
    elif request.param == "double":
        double: R2Double = request.getfixturevalue("double")
        yield request.param, double.endpoint
    else:
        yield request.param, request.getfixturevalue({"seaweed": "endpoint", "moto": "foreign"}[request.param])


def test_figures_equal_what_boto3_lists(server: tuple[str, seaweed.Endpoint], prefix: str) -> None:
    name, at = server
    client = bare_boto3(at)
    for user, count in (("ann", 7), ("bob", 3)):
        for n in range(count):
            body = b"same" if n < 3 else f"{user}{n}".encode() * (n + 1)
            client.put_object(Bucket=BUCKET, Key=f"{prefix}{user}/v{n}.mp4", Body=body)
            client.put_object(Bucket=BUCKET, Key=f"{prefix}{user}/v{n}.jpg", Body=body[:2] * 9 + bytes([n]))
    client.put_object(Bucket=BUCKET, Key=f"{prefix}ann/a+b é&.m3u8", Body=b"#EXTM3U")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}empty.mp4", Body=b"")
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}ann/late.mp4")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=f"{prefix}ann/late.mp4", UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    listed = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    theirs = [entry for one in listed for entry in one.get("Contents", ())]

    bucket = r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, prefix)
    found = scanned(bucket)

    assert found.total[1:3] == (len(theirs), sum(entry["Size"] for entry in theirs)) == (22, found.total.size_bytes)
    for user in ("ann", "bob"):
        mine = [entry["Size"] for entry in theirs if entry["Key"].startswith(f"{prefix}{user}/")]
        assert (len(mine), sum(mine)) in {part[1:3] for part in found.users if part.name == user}
    kinds = {part.name: part.objects for part in found.kinds}
    assert kinds == {Kind.VIDEO: 11, Kind.IMAGE: 10, Kind.PLAYLIST: 1}
    copies = Counter((entry["Size"], entry["ETag"]) for entry in theirs if entry["Size"])
    assert found.duplicates.objects == sum(count - 1 for count in copies.values()) >= 5
    assert found.empty.objects == 1
    assert [example.key for example in found.emptied] == [f"{prefix}empty.mp4"]
    if name == "miniflare":  # it does not list uploads
        assert found.unfinished is None or found.unfinished.objects in (0, 1)
    else:
        assert found.unfinished
        assert found.unfinished[1:3] == (1, 1000)
    client.abort_multipart_upload(Bucket=BUCKET, Key=f"{prefix}ann/late.mp4", UploadId=upload)
    folders = bucket.look().folders()
    assert folders.is_complete
    assert [part.objects for part in folders.counted if prefix.startswith(part.name)] in ([22], [])
    assert len(folders.counted) + len(folders.uncounted) >= 1
