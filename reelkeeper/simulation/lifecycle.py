"""Simulate policies on the real catalogue and its recorded views, from a past day on and into the future.

Each night, at 00:00 UTC, the rule judges every video, and due actions are taken at once, without the limits of a single
run. From today on it is assumed that

    views     of a video in any 30 days stay those of its last 30 and today, and are unknown where plans have none
    uploads   of the last 30 days come again each 30 days, as they are and with their views, or none come
    encodes   keep and cost what they are expected to, and pay only if more than R2's free allowance is stored today
    reads     each view reads the whole object from R2 once: no cache of a CDN stands before it

Regret rests on no assumption: it counts recorded views of videos that the policy would have retired by then.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

import numpy as np

from reelkeeper.model import Video
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle.transcode import IN_PLACE
from reelkeeper.simulation.lifecycle_account import PERIOD_DAYS, Account, Bytes, Reads
from reelkeeper.simulation.lifecycle_fates import UNBORN, Clock, Fates, Group, Judgement, Trial, keep_everything
from reelkeeper.simulation.lifecycle_limits import NEVER, UNKNOWN, Ints

KEEP: Final = "keep everything"
_WINDOW: Final = 30  # days of views that a video is judged by
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MICROS: Final = 86_400_000_000


class Past(Protocol):
    """A video as it was at the start; the store's PastVideo is one."""

    @property
    def video(self) -> Video:
        """Convert it for the rules; its views are not read here."""

    @property
    def is_ours(self) -> bool:
        """Check whether its key is ours."""

    @property
    def stored_at(self) -> datetime | None:
        """Give the time since which its bytes are stored."""

    @property
    def held_until(self) -> datetime | None:
        """Give the time until which it is held."""

    @property
    def removed_at(self) -> datetime | None:
        """Give the time when it was actually removed."""

    @property
    def removal(self) -> str | None:
        """Give the cause of its removal: rule, user or takedown."""


class Views(NamedTuple):
    """Views of a batch of videos: place of the video, ordinal of the day, count."""

    places: Sequence[int]
    days: Sequence[int]
    counts: Sequence[int]


class Span(NamedTuple):
    """The first and the last day of a simulation; `today` is the first day that is not over."""

    start: date
    today: date
    end: date  # not included


class Record(NamedTuple):
    """The store's other records that a simulation needs."""

    recorded: AbstractSet[date]  # the days whose views are complete
    oldest: date  # before which no video was created
    leaving: Mapping[date, int]  # bytes that wait out a grace since before the start, by the day on which it ends
    unexplained_bytes: int = 0  # which stay


class Month(NamedTuple):
    """A month of a course. Money is dollars; `net_usd` is the net against keeping everything."""

    month: date
    days: int  # that are simulated
    stored_bytes: int  # at its end
    r2_usd: Decimal  # as `reelkeeper bill` has it
    cpu_seconds: int
    cpu_usd: Decimal
    net_usd: Decimal
    compressed: int
    retired: Mapping[str, int]  # by tier
    class_a: int  # operations that write, moves between classes too
    class_b: int  # and those that read
    retrieved_bytes: int  # from Infrequent Access


class Regret(NamedTuple):
    """Recorded views of videos that would have been retired by then."""

    views: int
    videos: int
    users: int
    by_tier: Mapping[str, int]  # views


class Course(NamedTuple):
    """The result of one policy."""

    policy: str
    months: tuple[Month, ...]
    regret: Regret
    due_at_once: tuple[int, int]  # videos that the first night would compress, and retire
    due_bytes: int  # of those to retire


class Outcome(NamedTuple):
    """The results of all policies, keeping everything first. `unseen`: videos whose future views are unknown."""

    span: Span
    videos: int  # at the start: on a past day those made before, today all
    unknown_views: int  # of today, also those that a rule retired since: the rules for cold videos never act on them
    unseen: int  # of those: a rule retired them in fact
    stored_bytes: int  # at the start
    courses: tuple[Course, ...]


class _Tally:
    """The sums of one policy, in days from a start."""

    def __init__(self, trial: Trial, clock: Clock, like: "_Tally | None" = None) -> None:
        self.judgement: Judgement = Judgement(trial, clock, like.judgement if like else None)
        self.accounts = [Account(clock.nights, clock.today, days) for days in trial.infrequent_after_days]
        self.cpu_ms, self.compressed = np.zeros(clock.nights, np.int64), np.zeros(clock.nights, np.int64)
        self.retired: dict[str, Ints] = {}
        self.views = self.videos = self.users = self.due_bytes = 0
        self.views_by_tier = dict[str, int]()
        self._last_user = ""

    def add(self, group: Group, reads: Reads, *, regret: bool) -> None:
        """Follow a group of videos, and sum their fates."""
        fates, trial = self.judgement.of(group), self.judgement.trial
        for account in self.accounts:
            _store(account, group, reads, fates, trial)
        encoded = fates.compressed < NEVER
        np.add.at(self.cpu_ms, fates.compressed[encoded], fates.cpu_ms[encoded])
        np.add.at(self.compressed, fates.compressed[encoded], 1)
        self.due_bytes += int(group.sizes[fates.retired == 0].sum())
        by_tier: dict[str, list[int]] = {}
        for place in np.flatnonzero(fates.retired < NEVER):
            by_tier.setdefault(group.videos[place].tier or "unknown", []).append(int(place))
        for tier, places in by_tier.items():
            np.add.at(self._nights(tier), fates.retired[places], 1)
        if regret:
            self._regret(group, reads, fates)

    def shift_in(self, other: "_Tally", by: int) -> None:
        """Add the sums of another, shifted by a number of days."""
        for account, more in zip(self.accounts, other.accounts, strict=True):
            account.shift_in(more, by)
        pairs = [(other.cpu_ms, self.cpu_ms), (other.compressed, self.compressed)]
        pairs += [(nights, self._nights(tier)) for tier, nights in other.retired.items()]
        for source, into in pairs:
            count = max(min(len(source), len(into) - by), 0)
            into[by : by + count] += source[:count]

    def _nights(self, tier: str) -> Ints:
        if tier not in self.retired:
            self.retired[tier] = np.zeros_like(self.compressed)
        return self.retired[tier]

    def _regret(self, group: Group, reads: Reads, fates: Fates) -> None:
        met = (reads.days >= fates.retired[reads.places]) & (reads.counts > 0)
        lost = np.bincount(reads.places[met], weights=reads.counts[met], minlength=len(group.videos))
        for place in np.flatnonzero(lost):
            video, views = group.videos[place], int(lost[place])
            tier = video.tier or "unknown"
            self.views_by_tier[tier] = self.views_by_tier.get(tier, 0) + views
            self.views += views
            self.videos += 1
            self.users += video.user_id != self._last_user
            self._last_user = video.user_id


def simulate(
    trials: Sequence[Trial],
    batches: Iterable[tuple[Sequence[Past], Views]],
    span: Span,
    record: Record,
    *,
    uploads: bool = True,
) -> Outcome:
    """Simulate policies in one pass over the videos, grouped by user; with `uploads`, new ones keep coming."""
    every = [Trial(KEEP, keep_everything), *trials]
    as_of = datetime.combine(span.today, time(), UTC)
    nights, today = (span.end - span.start).days, (span.today - span.start).days
    ages = (span.end - min(record.oldest, span.start)).days + 1
    clock = Clock(as_of, today, nights, ages)
    again = Clock(as_of, PERIOD_DAYS, max(nights - today, PERIOD_DAYS + 1), ages)
    tallies = [_Tally(trial, clock) for trial in every]
    repeats = [_Tally(trial, again, like) for trial, like in zip(every, tallies, strict=True)]
    first_again = span.today - PERIOD_DAYS * _DAY
    begins = (span.start, clock), (first_again, again)
    complete = [_complete_since(record.recorded, start, at.today) for start, at in begins]
    there = unknown = unseen = 0
    for pasts, views in batches:
        reads = Reads(*(np.array(column, dtype=np.int64) for column in views))
        group, of_group = _group(*_there(pasts, reads, span.start), span.start, clock, complete[0])
        for tally in tallies:
            tally.add(group, of_group, regret=True)
        here = group.by_rule | (group.removed == NEVER)
        there += int((here & ((group.born < 0) | (span.start == span.today))).sum())
        unknown += int((here & (group.views[:, -1] == UNKNOWN)).sum())
        unseen += int((group.by_rule & (group.removed < NEVER)).sum())
        if uploads:
            group, of_group = _group(*_uploaded(pasts, reads, first_again, span.today), first_again, again, complete[1])
            for tally in repeats:
                tally.add(group, of_group, regret=False)
    _settle(tallies, repeats, clock)
    for account in (account for tally in tallies for account in tally.accounts):
        account.keep(record.unexplained_bytes)
        for day, size_bytes in record.leaving.items():
            account.keep(size_bytes, (day - span.start).days + 1)
    return Outcome(span, there, unknown, unseen, tallies[0].accounts[0].begin(), tuple(_courses(tallies, span)))


def _settle(tallies: Sequence[_Tally], repeats: Sequence[_Tally], clock: Clock) -> None:
    """Repeat the uploads, each period from today on."""
    for tally, repeat in zip(tallies, repeats, strict=True):
        for account in (*tally.accounts, *repeat.accounts):
            account.settle()
        for by in range(clock.today, clock.nights, PERIOD_DAYS):
            tally.shift_in(repeat, by)


def _there(pasts: Sequence[Past], reads: Reads, start: date) -> tuple[list[Past], Reads]:
    """Choose the videos that were not removed before the start."""
    first = datetime.combine(start, time(), UTC)
    return _chosen(pasts, reads, [past.removed_at is None or past.removed_at >= first for past in pasts])


def _uploaded(pasts: Sequence[Past], reads: Reads, first: date, today: date) -> tuple[list[Past], Reads]:
    """Choose the videos that were uploaded from `first` until `today`, with their views since."""
    least, most = first.toordinal(), today.toordinal()
    born = [past.video.created_at.toordinal() if past.video.created_at else 0 for past in pasts]
    since = reads.days >= np.array(born, dtype=np.int64)[reads.places]
    later = Reads(*(column[since] for column in reads))
    return _chosen(pasts, later, [least <= day < most for day in born])


def _chosen(pasts: Sequence[Past], reads: Reads, chosen: Sequence[bool]) -> tuple[list[Past], Reads]:
    if all(chosen):
        return list(pasts), reads
    flags = np.array(chosen, dtype=np.bool_)
    place, mine = np.cumsum(flags) - 1, flags[reads.places]
    left = Reads(place[reads.places[mine]], reads.days[mine], reads.counts[mine])
    return [past for past, is_chosen in zip(pasts, chosen, strict=True) if is_chosen], left


def _group(pasts: Sequence[Past], reads: Reads, start: date, clock: Clock, complete: Ints) -> tuple[Group, Reads]:
    """Arrange videos as columns, in nights from `start`."""
    zero = _micros(datetime.combine(start, time(), UTC))

    def days_of(moments: Iterable[datetime | None], unknown: int = UNBORN) -> tuple[Ints, Ints]:
        none = zero + unknown * _DAY_MICROS
        micros = np.array([none if at is None else _micros(at) for at in moments], dtype=np.int64)
        days, rest = np.divmod(micros - zero, _DAY_MICROS)
        return days, rest

    def first_midnight(moments: Iterable[datetime | None]) -> Ints:
        days, rest = days_of(moments)
        return days + (rest > 0)

    videos = [past.video for past in pasts]
    born, rest = days_of(video.created_at for video in videos)
    removed = days_of((past.removed_at for past in pasts), -UNBORN)[0]
    removed = np.where(removed >= -UNBORN, NEVER, np.maximum(removed, 0))
    by_rule = np.array([past.removal == "rule" for past in pasts], dtype=np.bool_)
    reads = reads._replace(days=reads.days - start.toordinal())
    window = _windows(len(videos), reads, clock.today)
    nights = np.arange(clock.today + 1)
    unknown = (complete > nights - _WINDOW) & (born[:, None] < complete)
    # guard simulation.unseen: what nobody could view any more counts as not viewed, and its loss is no regret
    unknown |= by_rule[:, None] & (nights > removed[:, None])
    # guard simulation.unknown_views: a policy is shown to retire videos whose views nobody recorded
    window[unknown] = UNKNOWN
    group = Group(
        videos,
        rest == 0,
        born,
        first_midnight(past.stored_at for past in pasts),
        np.array([video.size_bytes for video in videos], dtype=np.int64),
        np.array([past.is_ours for past in pasts], dtype=np.bool_),
        first_midnight(past.held_until for past in pasts),
        first_midnight(video.kept_until for video in videos),
        removed,
        by_rule,
        np.array([past.removal == "takedown" for past in pasts], dtype=np.bool_),
        window,
    )
    return group, Reads(*(column[reads.days < clock.today] for column in reads))  # of whole days


def _windows(count: int, reads: Reads, today: int) -> Ints:
    """Sum the views of each video in the 30 days before each night up to `today`, whose own count as in plans."""
    places, days, counts = reads
    within = (days >= -_WINDOW) & (days <= today)
    daily = np.zeros((count, today + _WINDOW + 1), dtype=np.int64)
    np.add.at(daily, (places[within], np.minimum(days[within], today - 1) + _WINDOW + 1), counts[within])
    np.cumsum(daily, axis=1, out=daily)
    return np.asarray(np.minimum(daily[:, _WINDOW:] - daily[:, : today + 1], UNKNOWN - 1), dtype=np.int64)


def _complete_since(recorded: AbstractSet[date], start: date, today: int) -> Ints:
    """Give for each night the first day, within the window, from which on each day before it is recorded."""
    found = []
    for night in range(today + 1):
        first = night
        while night - first < _WINDOW and start + (first - 1) * _DAY in recorded:
            first -= 1
        found.append(first)
    return np.array(found, dtype=np.int64)


def _store(account: Account, group: Group, reads: Reads, fates: Fates, trial: Trial) -> None:
    """Add the bytes of a group to an account: each video's own, and those of its result."""
    later = group.born >= account.today + (account.today > 0)  # a wrong clock; or today, where that is the start
    born = np.where(later, -1, np.maximum(group.born, -1))
    grace = np.where(group.is_ours, trial.grace.days, trial.grace.service_days)
    removed = np.where(group.by_rule, NEVER, group.removed)
    served = np.where(fates.retired <= removed, fates.retired, removed + np.where(group.at_once, 0, 1))
    taken_down = np.where(group.at_once, removed, NEVER)  # retired before or not: all its bytes go
    swapped = fates.compressed < NEVER

    def until(days: Ints | int) -> Ints:
        left = np.where(fates.retired <= removed, fates.retired + days, removed + days + 1)
        return np.minimum(left, taken_down)

    own_end = np.where(swapped, np.minimum(fates.compressed + grace, taken_down), until(grace))
    own = Bytes(group.sizes, group.stored, born, own_end, born, np.minimum(fates.compressed, served))
    account.add(own, reads)
    if not swapped.any():
        return
    chosen = np.flatnonzero(swapped)
    account.encode(Bytes(*(column[chosen] for column in own)), fates.compressed[chosen])
    place = np.full(len(swapped), -1)
    place[chosen] = np.arange(len(chosen))
    mine = place[reads.places] >= 0
    left = until(grace if trial.place == IN_PLACE else trial.grace.days)
    result = Bytes(fates.result_bytes, fates.compressed, fates.compressed, left, fates.compressed, served)
    account.add(
        Bytes(*(column[chosen] for column in result)),
        Reads(place[reads.places[mine]], reads.days[mine], reads.counts[mine]),
    )


def _courses(tallies: Sequence[_Tally], span: Span) -> Iterator[Course]:
    base: list[Decimal] = []
    for tally in tallies:
        trial = tally.judgement.trial
        for days, account in zip(trial.infrequent_after_days, tally.accounts, strict=True):
            bills, ends = account.bills(span.start), account.ends()
            months = list[Month]()
            for place, (month, r2_usd) in enumerate(bills.items()):
                first = max((month - span.start).days, 0)
                last = min(((month + 31 * _DAY).replace(day=1) - span.start).days, len(ends))
                cpu_ms = int(tally.cpu_ms[first:last].sum())
                cpu_usd = round(Decimal(trial.payback.cpu_usd(cpu_ms / 1000)), 6)
                if trial.judge is keep_everything:
                    base.append(r2_usd)
                months.append(
                    Month(
                        month,
                        last - first,
                        int(ends[last - 1]),
                        r2_usd,
                        round(cpu_ms / 1000),
                        cpu_usd,
                        base[place] - r2_usd - cpu_usd,
                        int(tally.compressed[first:last].sum()),
                        {tier: int(nights[first:last].sum()) for tier, nights in sorted(tally.retired.items())},
                        *account.operations(first, last),
                    )
                )
            name = trial.name if days is None else f"{trial.name}, Infrequent Access after {many(days, 'day')}"
            at_once = int(tally.compressed[0]), sum(int(nights[0]) for nights in tally.retired.values())
            regret = Regret(tally.views, tally.videos, tally.users, dict(sorted(tally.views_by_tier.items())))
            yield Course(name, tuple(months), regret, at_once, tally.due_bytes)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
