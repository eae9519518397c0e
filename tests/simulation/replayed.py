"""A simple replay: the rule judges every video each night, and all bytes are counted each day."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

from reelkeeper.model import Action, Grace, Video
from reelkeeper.model.money import Metric, StorageClass, Used
from reelkeeper.rules.billing.allocation import compute_charges
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.lifecycle.lifecycle import Judge
from reelkeeper.rules.lifecycle.worth import Worth
from reelkeeper.simulation.lifecycle import Span

DAY = timedelta(days=1)
COLD = StorageClass.INFREQUENT_ACCESS
WARM = StorageClass.STANDARD


class Seen(NamedTuple):
    """A video with all that is recorded of it, as the simulation takes it."""

    video: Video
    is_ours: bool
    stored_at: datetime | None
    held_until: datetime | None
    removed_at: datetime | None
    removal: str | None
    viewed: Mapping[date, int]


@dataclass
class Stored:
    """One object: there at the end of each day from `since` until before `until`."""

    size: int
    written: datetime | None
    since: date
    until: date = date.max
    moved: date | None = None

    def is_billed(self, kind: StorageClass, day: date) -> bool:
        """Whether it is stored in this class at the end of a day, or charged as if it were."""
        if kind == COLD:
            return self.moved is not None and self.moved <= day < max(self.until, self.moved + 30 * DAY)
        return self.since <= day < self.until and (self.moved is None or day < self.moved)


@dataclass
class Replay:
    """What a policy brought, day by day."""

    retired: Counter[tuple[str, str]] = field(default_factory=Counter)  # month, tier
    compressed: Counter[str] = field(default_factory=Counter)
    cpu_ms: Counter[str] = field(default_factory=Counter)
    ends: dict[date, int] = field(default_factory=dict)
    used: list[Used] = field(default_factory=list)
    views: Counter[str] = field(default_factory=Counter)
    met: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    def operations(self, month: date) -> tuple[int, int, int]:
        """Add up a month's operations of Class A and B, and the bytes that were retrieved."""
        used = [usage for usage in self.used if usage.day.replace(day=1) == month]
        reads = sum(usage.quantity for usage in used if usage.resource == "GetObject")
        every = sum(usage.quantity for usage in used if usage.metric == Metric.OPERATIONS)
        return every - reads, reads, sum(usage.quantity for usage in used if usage.metric == Metric.RETRIEVED_BYTES)

    def bills(self) -> dict[date, Decimal]:
        """Return the bill of each month."""
        found = {}
        for month in dict.fromkeys(usage.day.replace(day=1) for usage in self.used):
            charges = compute_charges(
                (usage for usage in self.used if usage.day.replace(day=1) == month), PriceBook(), month, date.max
            )
            found[month] = Decimal(sum(charge.billed_nanousd for charge in charges)).scaleb(-9)
        return found


def midnight(day: date) -> datetime:
    """Return the moment on which a day begins."""
    return datetime.combine(day, time(), UTC)


def replay(
    videos: Sequence[Seen],
    judging: Callable[[datetime], Judge],
    grace: Grace,
    codec: str,
    span: Span,
    recorded: frozenset[date],
    *,
    infrequent_after: int | None,
    uploads: bool,
    in_place: bool = False,
) -> Replay:
    """Play every night for every video, and for every copy of one that is uploaded again."""
    found = Replay()
    operations, stored = Counter[tuple[date, StorageClass, str]](), list[Stored]()
    retrieved = Counter[date]()
    lives = [
        (seen, timedelta()) for seen in videos if seen.removed_at is None or seen.removed_at >= midnight(span.start)
    ]
    if uploads:
        lives += [copy for seen in videos for copy in _copies(seen, span)]
    judges = {day: judging(midnight(day)) for day in days(span.start, span.end)}
    for seen, late in lives:
        rest = infrequent_after, found, operations, stored, retrieved
        _live(seen, late, judges, grace, codec, span, recorded, *rest, in_place=in_place)
    before = {WARM: sum(object_.size for object_ in stored if object_.since < span.start), COLD: 0}
    for day in days(span.start, span.end):
        after = {kind: sum(object_.size for object_ in stored if object_.is_billed(kind, day)) for kind in (WARM, COLD)}
        for kind in (WARM, COLD):
            found.used.append(Used(day, Metric.STORED_BYTES, max(before[kind], after[kind]), storage_class=kind))
        found.ends[day] = after[WARM] + after[COLD]
        before = after
    for (day, kind, action), count in operations.items():
        found.used.append(Used(day, Metric.OPERATIONS, count, resource=action, storage_class=kind))
    found.used += [Used(day, Metric.RETRIEVED_BYTES, size, storage_class=COLD) for day, size in retrieved.items()]
    return found


def _copies(seen: Seen, span: Span) -> Iterator[tuple[Seen, timedelta]]:
    """Yield a video of the last 30 days as often as it is uploaded again, each 30 days later than the last."""
    born = seen.video.created_at
    if born is not None and midnight(span.today - 30 * DAY) <= born < midnight(span.today):
        young = seen._replace(viewed={day: count for day, count in seen.viewed.items() if day >= born.date()})
        late = 30 * DAY
        while born + late < midnight(span.end):
            yield young, late
            late += 30 * DAY


def days(first: date, end: date) -> list[date]:
    """List the days from one until before another."""
    return [first + n * DAY for n in range((end - first).days)]


def _live(  # noqa: C901, PLR0912, PLR0915  one life, told from its beginning to its end
    seen: Seen,
    late: timedelta,
    judges: Mapping[date, Judge],
    grace: Grace,
    codec: str,
    span: Span,
    recorded: frozenset[date],
    infrequent_after: int | None,
    found: Replay,
    operations: Counter[tuple[date, StorageClass, str]],
    stored: list[Stored],
    retrieved: Counter[date],
    *,
    in_place: bool,
) -> None:
    video, created_at = seen.video, seen.video.created_at
    user_removed = seen.removal in {"user", "takedown"}
    removed = (seen.removed_at + late).date() if seen.removed_at and user_removed else None
    born = span.start - DAY if created_at is None else (created_at + late).date()
    known_born = None if created_at is None else created_at.date()
    is_there = born > span.today or born == span.today == span.start  # by a wrong clock, or made today
    since = span.start - DAY if is_there and not late else born

    def store(size: int, written: datetime | None, since: date) -> Stored:
        object_ = Stored(size, written, max(since, span.start - DAY))
        stored.append(object_)
        if object_.since >= span.start:
            operations[since, WARM, "PutObject"] += 1
        if infrequent_after is not None:
            object_.moved = max(object_.since, span.start)
            while written is not None and midnight(object_.moved) < written + infrequent_after * DAY:
                object_.moved += DAY
        return object_

    def is_cold(day: date) -> bool:
        return now.moved is not None and now.moved <= day

    now = store(video.size_bytes, seen.stored_at and seen.stored_at + late, since)
    own, is_ours, alive = now, seen.is_ours, True
    for day in days(span.start, span.end):
        if alive and removed is not None and removed < day:
            alive = False
        if alive and (created_at is None or born < day):
            night = min(day - late, span.today)
            window = days(night - 30 * DAY, night)
            needed = [d for d in window if known_born is None or d >= known_born]
            so_far = seen.viewed.get(night, 0) if night == span.today else 0
            views: int | None = sum(seen.viewed.get(d, 0) for d in window) + so_far
            if not recorded.issuperset(needed):
                views = None
            if seen.removal == "rule" and seen.removed_at and day - late > seen.removed_at.date():
                views = None
            asked = video._replace(
                created_at=created_at and created_at + late,
                views=views,
                held=seen.held_until is not None and seen.held_until + late > midnight(day),
                kept_until=video.kept_until and video.kept_until + late,
            )
            verdict = judges[day](asked)
            if verdict.action is Action.RETIRE:
                alive = False
                now.until = min(now.until, day + (grace.days if is_ours else grace.service_days) * DAY)
                found.retired[f"{day:%Y-%m}", video.tier or "unknown"] += 1
                if not late:
                    for later in days(day, span.today):
                        if lost := seen.viewed.get(later, 0):
                            found.views[video.tier or "unknown"] += lost
                            found.met.add(video.id)
                            found.users.add(video.user_id)
            elif verdict.action is Action.COMPRESS:
                (worth,) = (figure for figure in verdict.figures if isinstance(figure, Worth))
                found.compressed[f"{day:%Y-%m}"] += 1
                found.cpu_ms[f"{day:%Y-%m}"] += round(worth.cpu_seconds * 1000)
                operations[day, COLD if is_cold(day) else WARM, "GetObject"] += 2
                operations[day, WARM, "GetObject"] += 1
                if is_cold(day):
                    retrieved[day] += now.size
                now.until = day + (grace.days if is_ours else grace.service_days) * DAY
                video = video._replace(size_bytes=video.size_bytes - worth.saved_bytes, codec=codec, compressed=True)
                now, is_ours = store(video.size_bytes, midnight(day), day), is_ours or not in_place
        if removed == day and seen.removal == "takedown":
            own.until, now.until = min(own.until, day), min(now.until, day)
            alive = False
        if alive and day >= since:
            source = day - late
            if source >= span.today:
                source = span.today - 30 * DAY + timedelta(days=(source - span.today).days % 30)
            if viewed := seen.viewed.get(source, 0):
                operations[day, COLD if is_cold(day) else WARM, "GetObject"] += viewed
                if is_cold(day):
                    retrieved[day] += viewed * now.size
        if alive and removed == day:
            now.until = day + DAY + (grace.days if is_ours else grace.service_days) * DAY
            alive = False
    for object_ in {id(now): now, id(own): own}.values():
        if object_.moved is not None and object_.moved < min(object_.until, span.end):
            operations[object_.moved, COLD, "LifecycleStorageTierTransition"] += 1
        else:
            object_.moved = None
