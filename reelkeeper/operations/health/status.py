"""Read the state of the whole service from one snapshot, for the status page and for Prometheus.

Performance is computed for each quarter of an hour, and recorded.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelkeeper.model import SearchTotals
from reelkeeper.model.alerts import Severity
from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Window
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.alerts.cadence import ALL, CADENCES, Cadence, Parts, is_overdue
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.health.findings import ServiceState
from reelkeeper.rules.health.performance import JUDGED_MINUTES, PerformancePolicy, first_window, windows, with_present
from reelkeeper.rules.jobs.breaker import Breaker, Phase
from reelkeeper.rules.lifecycle import savings
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.spend.limits import LimitUse
from reelkeeper.settings import Settings
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.billing import charge_reports
from reelkeeper.store.core import deployment
from reelkeeper.store.core.deployment import Stopped
from reelkeeper.store.core.engine import now, open_store, reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.jobs import breakers, queue
from reelkeeper.store.jobs.slots import jobs_at_once, lane_limits
from reelkeeper.store.lifecycle import backlog, crf_searches, doubts
from reelkeeper.store.lifecycle.backlog import Backlog
from reelkeeper.store.lifecycle.plans import policy_hash
from reelkeeper.store.videos import cache, stock
from reelkeeper.store.videos.stock import InGrace


@dataclass(frozen=True, slots=True)
class FlowState:
    """Last success of a flow, and whether it is overdue."""

    flow: str
    last_ok_at: datetime | None
    run_id: str | None
    run_seconds: float | None
    cadence: Cadence
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs in each state, the wait of the oldest, and how many may run at once; None: not known.

    Also by provider, where several have jobs.
    """

    jobs: dict[str, int]
    oldest_wait_seconds: float
    jobs_at_once: int | None
    jobs_at_once_by_provider: dict[str, int]

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self.jobs.get(JobState.QUEUED, 0)

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return self.jobs.get(JobState.RUNNING, 0)


@dataclass(frozen=True, slots=True)
class Outbox:
    """The messages that are not delivered yet."""

    waiting: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Cache:
    """The entries of the cache, and their hits."""

    entries: int
    hits: int


@dataclass(frozen=True, slots=True)
class Money:
    """The spend against its limits, and the savings from freed bytes since the first purge, at list price."""

    today_nanousd: int
    month_nanousd: int
    budget: BudgetPolicy
    freed_bytes: int
    saved_nanousd: int
    searches: SearchTotals = field(default_factory=SearchTotals)  # the CRF searches of compression
    limits: tuple[LimitUse, ...] = ()  # for new jobs and compression, the fullest first


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """A provider that gets no new job, or only trial jobs: since when, until when, and why."""

    provider: str
    phase: Phase
    since: datetime
    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Status:
    """Everything, as of one moment by the store's clock."""

    as_of: datetime
    flows: tuple[FlowState, ...]
    videos: dict[str, tuple[int, int]]  # by state: count and bytes
    backlog: tuple[Backlog, ...]
    grace: InGrace
    queue: Queue
    cache: Cache
    outbox: Outbox
    levers: tuple[alerts.ListedAlert, ...]  # what would lower the bill, by the last forecast, the largest first
    alerts: tuple[alerts.ListedAlert, ...]  # without those
    frozen: Stopped | None
    money: Money
    providers: tuple[ProviderHealth, ...] = ()  # those that are unwell
    behind: str | None = None  # why this store deletes nothing: it is a copy, or was restored
    doubts: int = 0  # objects that are not as recorded
    contract: str = ""  # why nothing is changed at the service's keys
    parts: Parts = ALL  # what is deployed
    on_trial: bool = False

    @property
    def overdue(self) -> tuple[str, ...]:
        """The flows that have been silent for too long."""
        return tuple(flow.flow for flow in self.flows if flow.is_overdue)


def gather(engine: Engine, money: Money | None = None) -> Status:
    """Read everything from one snapshot. `money` may be given where it was read a moment ago: it is slow to sum."""
    behind = epochs.why_behind(engine, None)
    with reading(engine) as session:
        at = now(session)
        stopped = deployment.stopped(session)
        oldest, (waiting, waited) = queue.oldest_waiting(session), outbox.count_waiting(session)
        policies = in_force(session).policies
        left = (("tier_storage", "compress"), ("tier_storage", "retire"), ("expire_videos", "retire"))
        under = {flow: policy_hash(terms_in(policies, names)) for flow, names in TERMS.items()}
        backlogs = (backlog.left_of_last_plan(session, flow, action, under[flow]) for flow, action in left)
        return Status(
            as_of=at,
            flows=tuple(flow_states(session, tuple(CADENCES))),
            videos=stock.by_state(session),
            backlog=tuple(item for item in backlogs if item),
            grace=stock.in_grace(session),
            queue=Queue(
                queue.counted(session),
                max(0.0, (at - oldest).total_seconds()) if oldest else 0.0,
                jobs_at_once(session),
                lane_limits(session),
            ),
            cache=Cache(*cache.count(session)),
            outbox=Outbox(waiting, max(0.0, waited.total_seconds())),
            # guard alerts.all_firing: behind 50 newer alerts, a critical one is neither shown nor in the metrics
            alerts=tuple(sorted(alerts.listed(session, everything=False, but=savings.RULE), key=_worst_first)),
            levers=tuple(levers(session)),
            frozen=stopped,
            money=money or _money(session, at, policies),
            providers=tuple(_providers(session, at)),
            behind=behind,
            doubts=len(doubts.listed(session)),
            parts=awaited(session),
            on_trial=deployment.trial(session) is not None,
        )


def levers(session: Session) -> list[alerts.ListedAlert]:
    """List what would lower the bill, as the last run of `forecast_costs` found it, the largest first."""
    # guard alerts.all_levers: the largest of many levers is left out
    found = alerts.listed(session, everything=False, only=savings.RULE)
    return sorted(found, key=lambda lever: (-(lever.impact_microusd or 0), lever.scope))


def _worst_first(alert: alerts.ListedAlert) -> int:
    return -Severity(alert.severity).weight


def _providers(session: Session, at: datetime) -> Iterator[ProviderHealth]:
    for name, state in breakers.known(session).items():
        found = Breaker.model_validate(state)
        if found.since and found.until:
            yield ProviderHealth(name, found.phase(at), found.since, found.until, found.why)


def awaited(session: Session) -> Parts:
    """Return what is deployed; all, where nobody has looked yet."""
    return Parts.of(deployment.deployed(session))


def awaited_at(settings: Settings) -> Parts:
    """Return the deployed flows of the configured store; all, where it cannot be read."""
    with suppress(Exception), open_store(settings, may_make=False) as engine, reading(engine) as session:
        return awaited(session)
    return ALL


def flow_states(session: Session, flows: Collection[str]) -> list[FlowState]:
    """Return each flow's last success, and whether it is overdue: before its first, since the store was created.

    Where it is known which flows are deployed, the others are left out: nobody awaits them.
    """
    at, made_at, beats = now(session), deployment.made_at(session), deployment.beats(session)
    found = []
    for flow in sorted(awaited(session).flows.intersection(flows)):
        beat = beats.get(flow)
        promised = Cadence(beat.period_seconds, beat.grace_seconds) if beat else CADENCES[flow]
        late = is_overdue(beat.last_ok_at if beat else made_at, promised, at)
        if beat:
            found.append(FlowState(flow, beat.last_ok_at, beat.run_id, beat.run_seconds, promised, late))
        else:
            found.append(FlowState(flow, None, None, None, promised, late))
    return found


def _money(session: Session, at: datetime, policies: Policies) -> Money:
    gone = backlog.freed_by_day(session, at)
    uses = limits.uses(session, policies.admission, at)
    usd_per_day = policies.lifecycle.compress_usd_per_day
    if usd_per_day is not None and (use := limits.compressing(session, usd_per_day, at)).spent_microusd:
        uses = sorted([*uses, use], key=lambda use: -use.percent)
    return Money(
        *charge_reports.billed(session, at.date()),
        policies.budget,
        sum(item.size_bytes for item in gone),
        sum(saving.nanousd for saving in savings.per_day(gone, at.date())),
        crf_searches.totals(session),
        tuple(uses),
    )


def read_performance(engine: Engine, policy: PerformancePolicy, tiers: Tiers, as_of: datetime) -> ServiceState:
    """Read the jobs that ended recently, those in flight now, and the stored bytes, from one snapshot."""
    with reading(engine) as session:
        return ServiceState(
            performance.ended(session, as_of - timedelta(minutes=JUDGED_MINUTES), as_of),
            performance.in_flight(session),
            jobs_at_once(session),
            performance.filled(session, tiers.quota_bytes(), policy.storage_budget_bytes, policy.max_storage_percent),
        )


def work_out_windows(engine: Engine, seen: ServiceState, as_of: datetime) -> list[Window]:
    """Compute each complete quarter of an hour that is not recorded yet, the last one with the present queue."""
    with reading(engine) as session:
        last = performance.last_window(session)
        ended = performance.ended(session, first_window(last, as_of), as_of)
    return with_present(windows(ended, last, as_of), seen.in_flight, seen.filled, as_of)


def record_windows(engine: Engine, found: Sequence[Window]) -> None:
    """Record windows of performance."""
    with transaction(engine, "performance.record") as session:
        performance.record(session, found)


def why_not_changed(engine: Engine, settings: Settings) -> str:
    """Return why nothing is changed at the service's keys in this bucket, and the way out; "" if it may be."""
    if settings.endpoint_url is None:
        return ""
    from reelkeeper.operations.health.bucket_checks import describe_contract  # noqa: PLC0415  loads a bucket's client

    passed, text = describe_contract(engine, settings.endpoint_url, settings.bucket)
    with reading(engine) as session:
        failed = deployment.contract_failed(session, settings.endpoint_url, settings.bucket)
    way_out = "see docs/r2.md, Test the bucket" if failed else "to run it: reelkeeper doctor --contract"
    return "" if passed else f"{text}; {way_out}"
