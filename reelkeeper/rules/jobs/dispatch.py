"""Choose the next job: short before long, paid before free, and nobody waits for ever.

With slots that never idle, the mean wait depends on the order only if the order uses sizes. So a job
counts as requested later the longer it is expected to take, less so the higher its user's tier, and more so
the more jobs of its user wait before it. Other jobs earn time for the oldest job of all, which uses it to be next once
it has waited longer than the whole queue would take.

>>> from datetime import UTC, datetime, timedelta
>>> noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
>>> long = WaitingJob("long", "ana", "free", noon, 400.0)
>>> short = WaitingJob("short", "ben", "free", noon + timedelta(minutes=1), 130.0)
>>> from reelkeeper.rules.core.tiers import SHIPPED
>>> policy, as_of = DispatchPolicy(), noon + timedelta(minutes=2)
>>> [job.id for job in order([long, short], policy, SHIPPED, as_of)]
['short', 'long']
"""

import math
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.jobs import MOST_TIMES, SizeAndAge, WaitingJob
from reelkeeper.rules.core.tiers import Tiers

_POINT: Final = timedelta(minutes=1)  # of waiting
_CHARACTERS_PER_POINT: Final = 100  # of the prompt
_SIZE_ALONE: Final = 10.0**9  # seconds
_OLDEST_SHARE: Final = 1.0  # seconds of slot time that the oldest job earns for each second given to other jobs
_AFFINITY: Final = timedelta(minutes=20)  # a slot prefers its loaded model's jobs if the oldest is not older by more
# By how many seconds of estimated time a job may be behind and still go first because its model is loaded: loading
# another takes time as well.
_AFFINITY_SIZE_SECONDS: Final = 60
_AFFINITY_POINTS: Final = 3  # for seed, the same in points
_PROMPT_POINTS: Final = 10  # for seed: the most for a long prompt
_WIDTH_SECONDS: Final = 60.0  # of a step: a place in a long queue is off by the part of one minute's jobs


class DispatchPolicy(BaseModel):
    """Order of waiting jobs. The effect of a user's tier is a field of the tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["aging", "seed", "fifo"] = Field(
        "aging",
        description="Order of the queue. aging: by wait, size and tier; seed: by points for tier, wait and prompt; "
        "fifo: by age",
    )
    size_weight: float = Field(
        48,
        ge=0,
        le=10**9,
        description="For aging: seconds of waiting that one second of estimated processing time counts as",
    )
    user_burst: int = Field(
        8,
        ge=1,
        description="For aging: waiting jobs per user that count at their own size; the next as many count as twice as "
        "long, and so on, 32 times at most",
    )
    oldest_patience: float = Field(
        1.2,
        ge=0,
        le=10**9,
        description="The oldest job uses the earned time once it has waited this many times the time that the whole "
        "queue takes",
    )


class Term(NamedTuple):
    """One reason for a job's place. `value` is points under "seed", else seconds."""

    name: str
    value: float
    sentence: str

    def __str__(self) -> str:
        """Format name and sentence."""
        return f"{self.name}: {self.sentence}"


class Choice(NamedTuple):
    """The job to start, and the remaining credit of the oldest job, for the next call."""

    job: WaitingJob
    credit_seconds: float


def order(
    jobs: Sequence[WaitingJob],
    policy: DispatchPolicy,
    tiers: Tiers,
    as_of: datetime,
    credit_seconds: float = 0.0,
    *,
    slots: int = 1,
    more_seconds: float = 0.0,
) -> list[WaitingJob]:
    """Sort waiting jobs in the order in which slots that become free one after the other, now, would start them.

    `credit_seconds` is the credit left by earlier starts; `more_seconds` are the seconds of waiting jobs not in `jobs`.
    """
    line, placed = RankedQueue(jobs, policy, tiers, as_of, slots=slots, more_seconds=more_seconds), list[WaitingJob]()
    while len(placed) < len(jobs):
        job, credit_seconds = line.first(credit_seconds)
        line.start(job)
        placed.append(job)
    return placed


class RankedQueue:
    """Waiting jobs that free slots start one after the other; the oldest may have earned its place.

    They are ranked once, and a user's with a long backlog again when one of them arrives or starts.
    """

    def __init__(
        self,
        jobs: Sequence[WaitingJob],
        policy: DispatchPolicy,
        tiers: Tiers,
        as_of: datetime,
        *,
        slots: int = 1,
        more_seconds: float = 0.0,
    ) -> None:
        self._policy, self._tiers, self._as_of, self._slots = policy, tiers, as_of, slots
        self._jobs = OrderedDict((job.id, job) for job in sorted(jobs, key=_age))
        self._ahead = {job.id: job.ahead for job in jobs}  # falls when a job of the same user starts
        self._seconds = sum(job.estimate_seconds for job in jobs) + more_seconds
        self._rank()

    def first(self, credit_seconds: float, warm_model: str | None = None) -> Choice:
        """Choose the job that a free slot should start; at least one must be left.

        It is the one that `order` puts first, or, for a slot that has `warm_model` loaded, the first that needs that
        model if it is not too far behind (`_affinity`) and the oldest job of all is not older by more than `_AFFINITY`.
        The place that the oldest has earned likewise goes to one of
        that model that is nearly as old.
        """
        if not self._is_ranked:
            self._rank()
        policy, ranks, oldest = self._policy, self._ranks, next(iter(self._jobs.values()))
        is_due = self._is_due(oldest, credit_seconds)
        best = oldest if is_due else self._jobs[min(ranks, key=ranks.__getitem__)]
        latest = oldest.submitted_at + _AFFINITY
        is_cold = warm_model and best.model != warm_model
        warm = [job for job in self._jobs.values() if job.model == warm_model] if is_cold else []
        if is_due:
            old_and_warm = warm[0] if warm and warm[0].submitted_at <= latest else oldest
            return Choice(old_and_warm, credit_seconds - old_and_warm.estimate_seconds)
        best_warm = min(warm, key=lambda job: ranks[job.id], default=best)
        behind = ranks[best_warm.id][0] - ranks[best.id][0]
        stays = best_warm.submitted_at <= latest and behind <= _affinity(policy)
        chosen = best_warm if stays else best
        earned = credit_seconds + _OLDEST_SHARE * chosen.estimate_seconds
        return Choice(chosen, max(min(earned, oldest.estimate_seconds), credit_seconds))

    def __len__(self) -> int:
        """Count the jobs that are left."""
        return len(self._jobs)

    def keep(self, fits: Callable[[WaitingJob], bool]) -> None:
        """Leave out all jobs that may not start now."""
        self._seconds -= sum(job.estimate_seconds for job in self._jobs.values() if not fits(job))
        self._jobs = OrderedDict((job.id, job) for job in self._jobs.values() if fits(job))
        self._rank()

    def go_on(self, as_of: datetime, come: Sequence[WaitingJob] = ()) -> None:
        """Continue at a later time, with jobs that have arrived since, all younger than the others."""
        self._as_of = as_of
        self._seconds += sum(job.estimate_seconds for job in come)
        if self._policy.rule == "seed":  # ranked by the minute
            self._is_ranked = False
        for job in come:
            self._jobs[job.id], self._ahead[job.id] = job, job.ahead
            self._of_user[job.user_id][job.id] = None
            self._ranks[job.id] = self._ranking(job)
            self._rank_of(job.user_id)

    def start(self, job: WaitingJob) -> None:
        """Leave out a job that has started."""
        theirs = list(self._of_user[job.user_id])
        for other in theirs[theirs.index(job.id) + 1 :]:
            self._ahead[other] -= 1
        del self._jobs[job.id], self._ahead[job.id], self._ranks[job.id], self._of_user[job.user_id][job.id]
        self._seconds -= job.estimate_seconds
        self._rank_of(job.user_id)

    def _rank(self) -> None:
        jobs = list(self._jobs.values())
        self._ranking = _Ranking(self._policy, self._tiers, self._as_of)
        self._ranks = {job.id: self._ranking(job) for job in jobs}
        self._of_user = defaultdict[str, dict[str, None]](dict)  # in order of age
        for job in jobs:
            self._of_user[job.user_id][job.id] = None
        for user_id in self._of_user:
            self._rank_of(user_id)
        self._is_ranked = True

    def _rank_of(self, user_id: str) -> None:
        """Rank the jobs of one user again that have more or fewer of the user's bursts ahead than before."""
        behind, burst = self._ranking.behind, self._policy.user_burst
        for place, job_id in enumerate(self._of_user[user_id] if self._policy.rule == "aging" else ()):
            bursts = min(max(place, self._ahead[job_id]) // burst, MOST_TIMES - 1)
            if bursts != behind.get(job_id, 0):
                behind[job_id] = bursts
                self._ranks[job_id] = self._ranking(self._jobs[job_id])

    def _is_due(self, oldest: WaitingJob, credit_seconds: float) -> bool:
        """Check whether the oldest job has earned its place, and waited long enough to use it."""
        if self._policy.rule != "aging" or not 0 < oldest.estimate_seconds <= credit_seconds:
            return False
        waited = (self._as_of - oldest.submitted_at).total_seconds()
        return waited >= _patience_seconds(self._seconds, self._slots, self._policy)


def _patience_seconds(waiting_seconds: float, slots: int, policy: DispatchPolicy) -> float:
    """Return how long the oldest job must wait before it may use the time that it has earned."""
    return policy.oldest_patience * max(waiting_seconds, 0.0) / max(slots, 1)


def _affinity(policy: DispatchPolicy) -> float:
    """Return how far a job may rank behind the best and still go first because its model is loaded."""
    return _AFFINITY_SIZE_SECONDS * policy.size_weight if policy.rule == "aging" else _AFFINITY_POINTS


def explain(
    job: WaitingJob,
    jobs: Sequence[WaitingJob],
    policy: DispatchPolicy,
    tiers: Tiers,
    as_of: datetime,
    *,
    slots: int = 1,
    more_seconds: float = 0.0,
) -> list[Term]:
    """List the terms of a job's place among `jobs`, the most important first."""
    waited = (as_of - job.submitted_at).total_seconds()
    if policy.rule == "fifo":
        return [Term("wait", waited, f"{waited:.0f} s, first come first served")]
    if policy.rule == "seed":
        tier, wait, prompt = points(job, tiers, as_of)
        return [
            Term("tier", tier, f"{job.tier or 'unknown'}: {tier} points"),
            Term("wait", wait, f"{waited:.0f} s: {wait} points"),
            Term("prompt", prompt, f"{job.prompt_characters} characters: {prompt:g} points"),
        ]
    theirs = sorted((other for other in jobs if other.user_id == job.user_id), key=_age)
    place = max([other.id for other in theirs].index(job.id), job.ahead)
    behind, seconds, tier_name = (
        min(place // policy.user_burst, MOST_TIMES - 1),
        job.estimate_seconds,
        job.tier or "unknown",
    )
    patience = _patience_seconds(sum(other.estimate_seconds for other in jobs) + more_seconds, slots, policy)
    oldest = (
        f"the oldest job of all, next once it has waited {patience:.0f} s and others have earned its estimate"
        if min(jobs, key=_age).id == job.id
        else "not the oldest job of all"
    )
    size, weight = policy.size_weight * seconds, _weight(job.tier, tiers)
    counts = f"{tier_name}: its size counts " + ("in full" if weight == 1 else f"1 / {weight:g}")
    times = f"its size counts {'once' if not behind else f'{behind + 1} times'}"
    return [
        Term(
            "size",
            size,
            f"{seconds:.0f} s estimated, each of which counts as {policy.size_weight:g} s of waiting: {size:.0f} s",
        ),
        Term("tier", size / weight - size, counts),
        Term("backlog", behind * size / weight, f"job {place + 1} of the user's waiting ones: {times}"),
        Term("wait", -waited, f"{waited:.0f} s, {oldest}"),
    ]


def weight_of(policy: DispatchPolicy) -> float:
    """Return the seconds of waiting that an estimated second counts as; by size class or points, size alone counts."""
    return {"aging": policy.size_weight, "fifo": 0.0}.get(policy.rule, _SIZE_ALONE)


def window(policy: DispatchPolicy, tiers: Tiers) -> SizeAndAge | None:
    """Return the rank by which the store selects waiting jobs; None if the shortest and oldest suffice."""
    if policy.rule not in {"aging", "fifo"}:
        return None
    weight = float(weight_of(policy))  # two that are equal have one mark
    seconds = tuple((name, weight / tier.queue_weight) for name, tier in tiers.items())
    return SizeAndAge(seconds, weight, policy.user_burst)


class _Ranking:
    """The sort key of jobs once all are known: lower comes first."""

    def __init__(self, policy: DispatchPolicy, tiers: Tiers, as_of: datetime) -> None:
        self.policy, self.tiers, self.as_of = policy, tiers, as_of
        self.behind = dict[str, int]()  # bursts of its user's, by job

    def __call__(self, job: WaitingJob) -> tuple[float, datetime, str]:
        """Return a job's size less its wait in seconds, or its points; then its time and id. Lower comes first."""
        rank = 0.0
        if self.policy.rule == "aging":
            times = 1 + self.behind.get(job.id, 0)
            size = self.policy.size_weight * job.estimate_seconds * times / _weight(job.tier, self.tiers)
            rank = size - (self.as_of - job.submitted_at).total_seconds()
        elif self.policy.rule == "seed":
            rank = -sum(points(job, self.tiers, self.as_of))
        return rank, job.submitted_at, job.id


def _age(job: WaitingJob) -> tuple[datetime, str]:
    return job.submitted_at, job.id


def _weight(tier: str | None, tiers: Tiers) -> float:
    known = tiers.get(tier)
    return known.queue_weight if known else 1.0


def points(job: WaitingJob, tiers: Tiers, as_of: datetime) -> tuple[int, int, float]:
    """Return a job's points for its tier, its wait and its prompt; a prompt gives at most 10."""
    known = tiers.get(job.tier)
    tier = known.queue_points if known else 0
    prompt = min(job.prompt_characters / _CHARACTERS_PER_POINT, _PROMPT_POINTS)
    return tier, (as_of - job.submitted_at) // _POINT, prompt


def width_of(size_weight: float) -> float:
    """Return the width of a step in seconds of rank: a minute of waiting, or a second of estimated time."""
    return max(_WIDTH_SECONDS, size_weight)


class Account(NamedTuple):
    """The number of waiting jobs of a long queue and their seconds: below each step of rank, and last of all."""

    width: float  # of a step, in seconds of rank
    numbers: tuple[int, ...]  # of the steps that have jobs
    jobs: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, steps: Sequence[tuple[int, int, float]], width: float) -> Self:
        """Sum up the jobs and seconds of each step, which come in the order of their numbers."""
        numbers, jobs, seconds = zip(*steps, strict=True) if steps else ((), (), ())
        return cls(width, numbers, tuple(accumulate(jobs, initial=0)), tuple(accumulate(seconds, initial=0.0)))

    def ahead(self, rank: float) -> tuple[int, float]:
        """Return the jobs of a lower rank and their seconds, as if the jobs of its own step were spread evenly.

        >>> account = Account.of([(10, 4, 400.0), (12, 8, 800.0)], 60)
        >>> [account.ahead(60 * step) for step in (9.5, 10.5, 11, 12.25, 13)]
        [(0, 0.0), (2, 200.0), (4, 400.0), (6, 600.0), (12, 1200.0)]
        """
        number = math.floor(rank / self.width)
        place = bisect_left(self.numbers, number)
        jobs, seconds = self.jobs[place], self.seconds[place]
        if place == len(self.numbers) or self.numbers[place] != number:
            return jobs, seconds
        share = rank / self.width - number
        more = self.jobs[place + 1] - jobs
        return jobs + math.floor(share * more), seconds + share * (self.seconds[place + 1] - seconds)
