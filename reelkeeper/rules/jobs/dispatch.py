r"""Which job next? Short before long, paid before free, and nobody waits for ever.

A queue whose slots never idle has the same mean wait whatever its order, unless the order looks at size. So jobs fall
into size classes by their estimate, a paid tier moves a job some classes up, and jobs of one class go first come first
served. A share of the slots' time belongs to the oldest job of all: it is next whenever the estimates of the jobs that
went before it have earned its own. A user's long backlog moves down, class by class.

>>> from datetime import UTC, datetime, timedelta
>>> noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
>>> long = Job("long", "ana", "free", noon, 400.0)
>>> short = Job("short", "ben", "free", noon + timedelta(minutes=1), 130.0)
>>> policy = DispatchPolicy(class_bounds_seconds=(150, 200, 250, 300))
>>> [job.id for job in order([long, short], policy, noon + timedelta(minutes=2))]
['short', 'long']
>>> print(*explain(long, [long, short], policy, noon + timedelta(minutes=2)), sep="\n")
size: 400 s estimated, class 5 of 5: level 4
tier: free: 0 levels up
backlog: job 1 of the user's waiting 1: 0 levels down
wait: 120 s, the oldest job of all, which earns 0.42 s for each second given to others
"""

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.errors import PartialFailure
from reelkeeper.model import Tier
from reelkeeper.model.jobs import WaitingJob
from reelkeeper.rules.core.wording import many

_TIER_POINTS: Final = {str(Tier.PREMIUM): 100, str(Tier.PRO): 200}
_SECONDS_PER_POINT: Final = 60  # of waiting
_CHARACTERS_PER_POINT: Final = 100  # of the prompt


class DispatchPolicy(BaseModel):
    """How waiting jobs are ordered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["levels", "seed", "fifo"] = Field(
        "levels", description="levels: by size class and tier; seed: by points for tier, wait and prompt; fifo"
    )
    size_classes: int = Field(16, ge=1, le=50, description="Classes of equally many jobs, by estimated seconds")
    class_bounds_seconds: tuple[float, ...] | None = Field(
        None, description="Upper ends, inclusive, of all classes but the last; unset: quantiles of the jobs at hand"
    )
    premium_levels: int = Field(2, ge=0, le=50, description="Classes that a premium user's job moves up")
    pro_levels: int = Field(4, ge=0, le=50, description="Classes that a pro user's job moves up")
    user_burst: int = Field(8, ge=1, description="Waiting jobs of one user on a level; the next ones move one down")
    oldest_share: float = Field(
        0.42, ge=0, le=1, description="Slot time that the oldest job of all earns for each second given to others"
    )
    affinity_seconds: float = Field(
        1200, ge=0, description="A slot stays with its model unless the oldest job is so much older; 0: never"
    )
    affinity_levels: int = Field(
        3, ge=0, description="Levels that a job may be behind and still go first for its model"
    )
    prompt_points: int = Field(10, ge=0, description="Most points that a long prompt gives under the seed's rule")


class Term(NamedTuple):
    """One reason for a job's place. `value` is in levels under "levels", in points under "seed", else in seconds."""

    name: str
    value: float
    sentence: str

    def __str__(self) -> str:
        """Name and sentence."""
        return f"{self.name}: {self.sentence}"


class Choice(NamedTuple):
    """The job to start, and the credit of the oldest that is left, to be given to the next call."""

    job: WaitingJob
    credit_seconds: float


def order(
    jobs: Sequence[WaitingJob], policy: DispatchPolicy, as_of: datetime, credit_seconds: float = 0.0
) -> list[WaitingJob]:
    """Put waiting jobs in the order in which they should start. `credit_seconds` is what earlier starts left."""
    ranked = sorted(jobs, key=_Ranking(jobs, policy, as_of))
    if policy.rule != "levels":
        return ranked
    by_age, by_rank = (OrderedDict((job.id, job) for job in some) for some in (sorted(jobs, key=_age), ranked))
    placed = list[WaitingJob]()
    while by_age:
        oldest, best = next(iter(by_age.values())), next(iter(by_rank.values()))
        job, credit_seconds = _earned(oldest, credit_seconds) or _earning(best, credit_seconds, policy)
        del by_age[job.id], by_rank[job.id]
        placed.append(job)
    return placed


def first(
    jobs: Sequence[WaitingJob],
    policy: DispatchPolicy,
    as_of: datetime,
    credit_seconds: float = 0.0,
    warm_model: str | None = None,
) -> Choice:
    """Give the job that a free slot should start. `jobs` must hold one.

    It is the one that `order` puts first, or, for a slot that has `warm_model` loaded, the first that needs that model
    if it is at most `affinity_levels` behind and the oldest job of all is not older by more than `affinity_seconds`.
    The place that the oldest has earned likewise goes to one of that model that is nearly as old.
    """
    return RankedQueue(jobs, policy, as_of).first(credit_seconds, warm_model)


class RankedQueue:
    """Waiting jobs that free slots start one after the other, each chosen as by `first` among those that are left.

    They are ranked once, and those of a user with a long backlog, who move up, once more when one of them has started.
    """

    def __init__(self, jobs: Sequence[WaitingJob], policy: DispatchPolicy, as_of: datetime) -> None:
        self._policy, self._as_of = policy, as_of
        self._jobs = OrderedDict((job.id, job) for job in sorted(jobs, key=_age))
        self._rank()

    def first(self, credit_seconds: float, warm_model: str | None = None) -> Choice:
        """Choose among those that are left, of which there must be one."""
        policy, jobs, ranks = self._policy, self._jobs.values(), self._ranks
        warm = [job for job in jobs if job.model == warm_model] if policy.affinity_seconds else []
        oldest = next(iter(jobs))
        latest = oldest.submitted_at + timedelta(seconds=policy.affinity_seconds)
        if policy.rule == "levels" and _earned(oldest, credit_seconds):
            old_and_warm = warm[0] if warm and warm[0].submitted_at <= latest else oldest
            return Choice(old_and_warm, credit_seconds - old_and_warm.estimate_seconds)
        best = self._jobs[min(ranks, key=ranks.__getitem__)]
        best_warm = min(warm, key=lambda job: ranks[job.id], default=best)
        behind = ranks[best_warm.id][0] - ranks[best.id][0]
        stays = best_warm.submitted_at <= latest and behind <= policy.affinity_levels
        return _earning(best_warm if stays else best, credit_seconds, policy)

    def start(self, job: WaitingJob) -> None:
        """Leave out a job that has started."""
        del self._jobs[job.id], self._ranks[job.id]
        if self._policy.rule == "levels" and self._policy.class_bounds_seconds is None:
            self._rank()  # the classes are made of the jobs that wait
        elif job.id in self._ranking.behind:
            theirs = [waiting_job for waiting_job in self._jobs.values() if waiting_job.user_id == job.user_id]
            behind = _backlogs(theirs, self._policy.user_burst)
            self._ranking.behind |= {waiting_job.id: behind.get(waiting_job.id, 0) for waiting_job in theirs}
            self._ranks |= {waiting_job.id: self._ranking(waiting_job) for waiting_job in theirs}

    def _rank(self) -> None:
        jobs = list(self._jobs.values())
        self._ranking = _Ranking(jobs, self._policy, self._as_of)
        self._ranks = {job.id: self._ranking(job) for job in jobs}


def _earned(oldest: WaitingJob, credit_seconds: float) -> Choice | None:
    if 0 < oldest.estimate_seconds <= credit_seconds:
        return Choice(oldest, credit_seconds - oldest.estimate_seconds)
    return None


def _earning(job: WaitingJob, credit_seconds: float, policy: DispatchPolicy) -> Choice:
    return Choice(job, credit_seconds + policy.oldest_share * job.estimate_seconds)


def explain(job: WaitingJob, jobs: Sequence[WaitingJob], policy: DispatchPolicy, as_of: datetime) -> list[Term]:
    """Name each term of a job's place among `jobs`, in the order in which they weigh."""
    waited = (as_of - job.submitted_at).total_seconds()
    if policy.rule == "fifo":
        return [Term("wait", waited, f"{waited:.0f} s, first come first served")]
    if policy.rule == "seed":
        tier, wait, prompt = points(job, policy.prompt_points, as_of)
        return [
            Term("tier", tier, f"{job.tier or 'unknown'}: {tier} points"),
            Term("wait", wait, f"{waited:.0f} s: {wait} points"),
            Term("prompt", prompt, f"{job.prompt_characters} characters: {prompt:g} points"),
        ]
    bounds = _bounds(jobs, policy)
    size, shift = bisect_left(bounds, job.estimate_seconds), _shift(job, policy)
    theirs = sorted((other for other in jobs if other.user_id == job.user_id), key=_age)
    place = theirs.index(job)
    oldest = "the oldest job of all" if min(jobs, key=_age) == job else "not the oldest job of all"
    return [
        Term(
            "size", size, f"{job.estimate_seconds:.0f} s estimated, class {size + 1} of {len(bounds) + 1}: level {size}"
        ),
        Term("tier", -shift, f"{job.tier or 'unknown'}: {shift} levels up"),
        Term(
            "backlog",
            place // policy.user_burst,
            f"job {place + 1} of the user's waiting {len(theirs)}: {place // policy.user_burst} levels down",
        ),
        Term(
            "wait",
            waited,
            f"{waited:.0f} s, {oldest}, which earns {policy.oldest_share:g} s for each second given to others",
        ),
    ]


def class_bounds(estimates_seconds: Iterable[float], size_classes: int) -> tuple[float, ...]:
    """Give the upper ends of `size_classes` classes of equally many estimates, but for the last, which has none."""
    known = sorted(estimates_seconds)
    if not known:
        return ()
    return tuple(known[min(len(known) * step // size_classes, len(known) - 1)] for step in range(1, size_classes))


def _bounds(jobs: Iterable[WaitingJob], policy: DispatchPolicy) -> tuple[float, ...]:
    if policy.class_bounds_seconds is not None:
        return policy.class_bounds_seconds
    return class_bounds((job.estimate_seconds for job in jobs), policy.size_classes)


class _Ranking:
    """What jobs are sorted by once all are known: lower goes first."""

    def __init__(self, jobs: Sequence[WaitingJob], policy: DispatchPolicy, as_of: datetime) -> None:
        self.policy, self.as_of = policy, as_of
        self.bounds = _bounds(jobs, policy) if policy.rule == "levels" else ()
        self.behind = _backlogs(jobs, policy.user_burst) if policy.rule == "levels" else {}

    def __call__(self, job: WaitingJob) -> tuple[float, datetime, str]:
        """Give a job's level; within one, age counts."""
        level: float = 0
        if self.policy.rule == "levels":
            size = bisect_left(self.bounds, job.estimate_seconds)
            level = size - _shift(job, self.policy) + self.behind.get(job.id, 0)
        elif self.policy.rule == "seed":
            level = -sum(points(job, self.policy.prompt_points, self.as_of))
        return level, job.submitted_at, job.id


def _backlogs(jobs: Sequence[WaitingJob], user_burst: int) -> dict[str, int]:
    """How many levels down each job of a user with a long backlog goes; the jobs of others are left out."""
    waiting = Counter(job.user_id for job in jobs)
    if max(waiting.values(), default=0) <= user_burst:
        return {}
    seen, behind = Counter[str](), {}
    for job in sorted((job for job in jobs if waiting[job.user_id] > user_burst), key=_age):
        behind[job.id] = seen[job.user_id] // user_burst
        seen[job.user_id] += 1
    return behind


def _age(job: WaitingJob) -> tuple[datetime, str]:
    return job.submitted_at, job.id


def _shift(job: WaitingJob, policy: DispatchPolicy) -> int:
    return {str(Tier.PREMIUM): policy.premium_levels, str(Tier.PRO): policy.pro_levels}.get(job.tier or "", 0)


@dataclass(frozen=True, slots=True)
class DispatchReport:
    """The jobs that a run brought to an end, how many wait, run and are dead at its end, and who comes next."""

    flow: str
    run_id: str
    dry_run: bool
    waiting: int
    running: int
    parked: int
    dead: int  # all there are, of whenever
    succeeded: int = 0
    refused: int = 0  # never to be made
    cancelled: int = 0
    to_be_tried_again: int = 0
    in_doubt: int = 0  # parked by this run
    handed_over: int = 0  # to the run that follows
    given_up: int = 0  # dead: their attempts are used up
    failed_here: int = 0  # another worker has them, a minute later
    next_jobs: tuple[str, ...] = field(default=())  # a dry run: the first few, with the terms of their places

    @classmethod
    def of(cls, run_id: str, states: Mapping[str, int], **what: Any) -> Self:  # noqa: ANN401  fields of the report
        """Make a report from the number of jobs in each state."""
        what |= {name: states.get(name, 0) for name in ("running", "parked", "dead")}
        return cls("dispatch_jobs", run_id, waiting=states.get("queued", 0), **what)

    def require_whole(self) -> Self:
        """Raise PartialFailure for jobs that used up their attempts, or failed in a way that nobody has foreseen."""
        if self.given_up or self.failed_here:
            raise PartialFailure(
                f"{many(self.succeeded, 'job')} succeeded; {self.given_up} used up their attempts and are dead, "
                f"{self.failed_here} failed here and go to another worker. To try a dead one again: "
                "reelkeeper jobs redrive JOB"
            )
        return self


def points(job: WaitingJob, prompt_points: int, as_of: datetime) -> tuple[int, int, float]:
    """Give a job's points for its tier, its wait and its prompt, of which a long one gives at most `prompt_points`."""
    tier = _TIER_POINTS.get(job.tier or "", 0)
    wait = int((as_of - job.submitted_at).total_seconds() // _SECONDS_PER_POINT)
    return tier, wait, min(job.prompt_characters / _CHARACTERS_PER_POINT, prompt_points)
