"""Scan a bucket: list it once, take a census of what is there, and say what it costs and what would lower that.

It needs no store, and sends nothing but listings, and a GET for each video of a sample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from reelkeeper import disk
from reelkeeper.adapters.s3.keys import IMAGE_SUFFIX, flaw, parse_key
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import ReelkeeperError, StorageError
from reelkeeper.model import CrfSearch, Refusal, StoredObject, Transcode
from reelkeeper.model.adoption import OneDay
from reelkeeper.model.key_patterns import KeyPattern
from reelkeeper.model.scan import AGES, OLDER, Clip, Example, Kind, Part, Sample, Scan, age_label
from reelkeeper.rules.billing.pricing import bill
from reelkeeper.rules.core.wording import many, size
from reelkeeper.rules.lifecycle import levers
from reelkeeper.rules.lifecycle.worth import Payback
from reelkeeper.rules.sync.adoption import AdoptionLimits, misfit, one_day_warning, repeated
from reelkeeper.store.sync.census import Census, Entry

T = TypeVar("T")
Encode = Callable[[Path, Path], tuple[Transcode | Refusal, CrfSearch | None]]
SHOWN: Final = 12  # folders and users; the rest is one row
_NAMED_ALIKE: Final = (Kind.VIDEO, Kind.IMAGE)
NAMED: Final = 5  # examples
_YEAR, _MONTH = len("YYYY"), len("YYYY-MM")
_AGES: Final = (*(label for _, label in AGES), OLDER)
_OLD_DAYS: Final = AGES[1][0]  # a lever's `old` objects are older


class Stop:
    """A handler of Ctrl-C: it interrupts only where waiting can be given up, and is remembered elsewhere."""

    asked = False
    waiting = False

    def __call__(self, *_: object) -> None:
        """Take the signal."""
        self.asked = True
        if self.waiting:
            raise KeyboardInterrupt

    def during(self, work: Callable[[], T]) -> T:
        """Do `work`, which Ctrl-C may interrupt."""
        if self.asked:
            raise KeyboardInterrupt
        self.waiting = True
        try:
            return work()
        finally:
            self.waiting = False


class Sampling(NamedTuple):
    """How many videos to encode, drawn by which seed, in which folder, and by what."""

    clips: int
    seed: int
    scratch: Path
    encode: Encode


class Terms(NamedTuple):
    """The assumptions of a scan: patterns of keys and when they fit, its time, and the codec and costs of a recipe."""

    layout: tuple[KeyPattern, ...]
    adoption: AdoptionLimits
    as_of: datetime
    codec: str
    payback: Payback


def scan(
    bucket: Bucket, terms: Terms, *, tell: Callable[[str], None], stop: Stop, sampling: Sampling | None = None
) -> Scan:
    """Scan everything under the bucket's prefix. `tell` gets the progress, in words.

    Interrupted, or when the bucket stops answering, it gives what it knows, and `stopped` says so. Raises StorageError
    where not even the first page came.
    """
    with closing(Census()) as census:
        counts, stopped, is_listed = _Counts(terms, bucket.prefix), "", False
        unfinished = sample = None
        try:
            for page in _pages(bucket, stop):
                census.add(counts.entries(page))
                tell(f"{many(counts.objects, 'object')}, {size(counts.size_bytes)}")
            is_listed = True
            try:
                unfinished = stop.during(bucket.look().unfinished)
            except StorageError:  # not every server, and not every token, tells
                unfinished = None
            if sampling:
                sample = _sampled(bucket, census, sampling, tell, stop)
                stopped = "interrupted" if sample.untried else ""
        except KeyboardInterrupt:
            stopped = "interrupted"
        except StorageError as error:
            if not counts.objects:
                raise
            stopped = str(error)
        tell("adding up")
        return _figures(bucket, terms, census, counts, _Ended(stopped, is_listed, unfinished, sample))


def _pages(bucket: Bucket, stop: Stop) -> Iterator[list[StoredObject]]:
    pages = bucket.look().pages()
    while (page := stop.during(lambda: next(pages, None))) is not None:
        yield page


class _Ended(NamedTuple):
    """The end of a scan: why it `stopped` early, "" if it did not, and what was read once everything was listed."""

    stopped: str
    is_listed: bool
    unfinished: Part | None
    sample: Sample | None

    def missing(self) -> Iterator[str]:
        """Name what an interruption left out of a complete listing: unfinished uploads, or videos of the sample."""
        if not self.stopped or not self.is_listed:
            return
        if self.sample is None:
            yield "The listing is complete; interrupted before unfinished uploads were counted."
        else:
            tried = len(self.sample.clips) + len(self.sample.failed)
            drawn = many(tried + self.sample.untried, "video")
            yield f"The listing is complete; the sample was interrupted after {tried} of {drawn}."


class _Counts:
    """Count objects page by page, by kind, day, age in days, month in the key and storage class: few combinations."""

    def __init__(self, terms: Terms, prefix: str) -> None:
        self._layout, self._prefix, self._as_of = terms.layout, prefix, terms.as_of
        self.objects = self.size_bytes = self.pages = self.odd_keys = 0
        self.videos = self.videos_of_users = 0
        self.cube: dict[tuple[Kind, int, int, str, bool], list[int]] = {}
        self.empty = Part("0 bytes")
        self.emptied: list[Example] = []
        self.odd: list[Example] = []

    def entries(self, page: Sequence[StoredObject]) -> Iterator[Entry]:
        """Count a page's objects, and give their entries."""
        start = len(self._prefix)
        self.pages += 1
        for key, size_bytes, etag, at, storage_class in page:
            rest = key[start:]
            kind = Kind.OURS if rest.startswith(".") else levers.kind_of(rest)
            user, name, made_at, month = self.read(rest, at)
            stem = video = None
            if name is not None and kind in _NAMED_ALIKE:
                stem = hash((user, IMAGE_SUFFIX.sub("", name)))
                video = hash((user, name)) if kind is Kind.VIDEO and user and size_bytes else None
            self.objects += 1
            self.size_bytes += size_bytes
            if kind is Kind.VIDEO:
                self.videos += 1
                self.videos_of_users += user is not None
            place = kind, made_at.toordinal(), (self._as_of - made_at).days, month, storage_class != ""
            cell = self.cube.setdefault(place, [0, 0])
            cell[0] += 1
            cell[1] += size_bytes
            if not size_bytes and kind not in (Kind.FOLDER, Kind.OURS):
                self.empty = self.empty._replace(objects=self.empty.objects + 1)
                if len(self.emptied) < NAMED:
                    self.emptied.append(Example(key, 0, str(kind)))
            if kind is not Kind.FOLDER and (why := flaw(key)):
                self.odd_keys += 1
                if len(self.odd) < NAMED:
                    self.odd.append(Example(key, size_bytes, why))
            content = hash((size_bytes, etag)) if size_bytes else None
            yield Entry(key, size_bytes, storage_class != "", kind, user, content, stem, video)

    def grouped(self, by: Callable[[Kind, int, int, str], Any]) -> dict[Any, Part]:
        """Sum by whatever `by` makes of kind, day, age in days and month in the key; the part's name is that."""
        sums: dict[Any, list[int]] = {}
        for (kind, day, age, month, infrequent), (objects, size_bytes) in self.cube.items():
            found = sums.setdefault(by(kind, day, age, month), [0, 0, 0])
            for place, more in enumerate((objects, size_bytes, size_bytes * infrequent)):
                found[place] += more
        return {label: Part(str(label), *found) for label, found in sums.items()}

    def sum(self, of: Callable[[Kind, int], bool] = lambda *_: True, *, standard: bool = False) -> Part:
        """Sum what `of` is true for, of all storage classes or Standard alone."""
        chosen = [
            (objects, size_bytes, size_bytes * infrequent)
            for (kind, _, age, _, infrequent), (objects, size_bytes) in self.cube.items()
            if of(kind, age) and not (standard and infrequent)
        ]
        return Part("", *(sum(cell[place] for cell in chosen) for place in range(3)))

    def read(self, rest: str, at: datetime) -> tuple[str | None, str | None, datetime, str]:
        """Return the user and the video in a key, the time when it was stored, and the month in the key.

        By a date in the key, the time may be earlier: its end, as for ages. The month is YYYY-MM, YYYY, or "" for none.
        """
        for pattern in self._layout:
            if parts := pattern.read(rest):
                if parts.made_before is None or parts.last_day is None:
                    return parts.user, parts.video, at, ""
                month = str(parts.last_day)[: _MONTH if pattern.has("month") else _YEAR]
                return parts.user, parts.video, min(at, parts.made_before), month
        own = parse_key(self._prefix, self._prefix + rest, ())
        return (own.user_id, own.video_id, at, "") if own else (None, None, at, "")


def _sampled(bucket: Bucket, census: Census, sampling: Sampling, tell: Callable[[str], None], stop: Stop) -> Sample:
    clips, failed = list[Clip](), list[str]()
    keys = census.draw(sampling.clips, sampling.seed)
    for number, key in enumerate(keys, 1):
        tell(f"sample {number} of {len(keys)}: {key}")
        try:
            clips.append(stop.during(lambda key=key: _encoded(bucket, key, sampling)))  # type: ignore[misc]  # bound now
        except ReelkeeperError as error:
            failed.append(f"{key}: {error}")
        except OSError as error:
            if not disk.is_full(error):
                raise
            failed.append(f"{key}: it does not fit on the disk of the scratch folder")
        except KeyboardInterrupt:
            break
    return Sample(sampling.seed, tuple(clips), tuple(failed), len(keys) - len(clips) - len(failed))


def _encoded(bucket: Bucket, key: str, sampling: Sampling) -> Clip:
    source = sampling.scratch / "source"
    try:
        bucket.download(key, source)
        size_bytes = source.stat().st_size
        result, search = sampling.encode(source, sampling.scratch)
    finally:
        source.unlink(missing_ok=True)
    cpu_seconds = search.cpu_seconds if search else 0.0
    if isinstance(result, Refusal):
        return Clip(key, size_bytes, size_bytes, result.rule, cpu_seconds)
    Path(result.path).unlink(missing_ok=True)
    return Clip(key, size_bytes, result.size_bytes, "accepted", cpu_seconds)


def _figures(bucket: Bucket, terms: Terms, census: Census, counts: _Counts, ended: _Ended) -> Scan:
    unfinished, sample = ended.unfinished, ended.sample
    total = counts.sum()
    duplicates, duplicated = census.duplicates(NAMED)
    crowding = census.crowding()
    name = counts.read(crowding.video[len(bucket.prefix) :], terms.as_of)[1] or ""
    unfit = misfit(terms.adoption, replace(crowding, video=name))
    names_users = any(pattern.has("user") for pattern in terms.layout)
    unowned = levers.unowned(counts.videos, counts.videos_of_users) if names_users and not unfit else ""
    users, known_users = ([], None) if unfit or unowned else census.by_user(SHOWN)
    images = counts.sum(lambda kind, _: kind is Kind.IMAGE).objects
    found = levers.Found(
        total._replace(size_bytes=total.size_bytes + (unfinished.size_bytes if unfinished else 0)),
        counts.sum(lambda kind, _: kind is Kind.VIDEO, standard=True),
        counts.sum(lambda _, age: age > _OLD_DAYS, standard=True),
        counts.sum(lambda kind, age: kind is Kind.VIDEO and age > _OLD_DAYS, standard=True),
        duplicates,
        unfinished,
        None if unfit or not ended.is_listed else census.orphans(images),
        ended.is_listed,
    )
    made = levers.levers(found, levers.Kept.of(sample, terms.codec), terms.payback)
    billed_usd = bill(levers.usage_of(found.total)).billed_usd
    days = counts.grouped(lambda _, day, *__: day)
    fullest = max(days, key=lambda day: days[day].objects, default=0)
    warning = one_day_warning(OneDay(date.fromordinal(fullest), days[fullest].objects, total.objects)) if days else None
    remedy = (
        repeated(bucket.prefix, terms.layout)
        or "say --prefix, the folder of the videos, or --pattern, how their keys name user and video"
    )
    unknown = (
        f"The patterns of keys do not fit this bucket: {unfit or unowned}. So users"
        f"{', and images without their video,' if unfit else ''} are unknown: {remedy}."
    )
    return Scan(
        bucket=bucket.name,
        prefix=bucket.scope,
        as_of=terms.as_of,
        stopped=ended.stopped,
        is_listed=ended.is_listed,
        total=total,
        dated=counts.grouped(lambda _, __, ___, month: bool(month)).get(True, Part(""))._replace(name="dated by key"),
        billed_usd=billed_usd,
        list_usd=levers.list_usd(total),
        requests=counts.pages,
        folders=census.by_folder(bucket.prefix, SHOWN),
        users=users,
        known_users=known_users,
        kinds=sorted(counts.grouped(lambda kind, *_: kind).values(), key=lambda part: -part.size_bytes),
        ages=_labelled(counts.grouped(lambda kind, _, age, __: (age_label(age), kind)), [*_AGES]),
        months=_labelled(counts.grouped(lambda kind, day, _, month: (_stored(day, month), kind))),
        duplicates=duplicates,
        duplicated=duplicated,
        unfinished=unfinished,
        orphans=found.orphans,
        empty=counts.empty,
        emptied=counts.emptied,
        odd=counts.odd,
        odd_keys=counts.odd_keys,
        biggest=census.biggest(NAMED),
        sample=sample,
        levers=made,
        remarks=[
            *ended.missing(),
            *([unknown] if unfit or unowned else []),
            *levers.remarks(total, users, billed_usd, made),
            *([f"{warning}."] if warning else []),
        ],
    )


def _stored(day: int, month: str) -> str:
    """Return the month in which something was stored: that of the day, or an earlier one by its key."""
    of_day = str(date.fromordinal(day))[:_MONTH]
    return of_day if of_day.startswith(month) else min(of_day, month)


def _labelled(parts: Mapping[Any, Part], order: Sequence[str] = ()) -> list[tuple[str, Part]]:
    """List parts of (label, kind) in the order of their labels, each under its kind's name."""
    ordered = sorted(parts, key=lambda key: (order.index(key[0]) if order else 0, key))
    return [(label, parts[label, kind]._replace(name=str(kind))) for label, kind in ordered]
