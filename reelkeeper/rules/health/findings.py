"""Report performance figures beyond their limits, by how much, and what would help. Pure.

A mean over few jobs says little: its rule is then not evaluated, and its alerts stay as they are. The source document
answered slow jobs by running more at once; where jobs slow each other down, that makes it worse.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import fmean
from typing import Final, NamedTuple

from reelkeeper.model.alerts import AlertRule, Finding, Severity
from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight
from reelkeeper.rules.core.wording import dollars, many
from reelkeeper.rules.health.performance import FEWEST_JOBS, JUDGED_MINUTES, PerformancePolicy, percentile, waiting
from reelkeeper.rules.health.performance_report import money

SLOW: Final = "slow_jobs"
DEAR: Final = "dear_jobs"
FAILING: Final = "failing_jobs"
WAITING: Final = "long_wait"
FULL: Final = "full_storage"
_TOTAL: Final = "total"
_CROWDED: Final = 1.3  # times its estimate, from which on a job is slowed down by concurrent ones
_MONTH_MINUTES: Final = 30 * 24 * 60
_PERCENT: Final = 100
_GB: Final = 10**9
_SHOWN: Final = 100  # characters of an error
_SPAN: Final = f"the last {many(JUDGED_MINUTES, 'minute')}"
_MOSTLY: Final = 50  # percent of successes, below which a finding is urgent
_Rule = Callable[[str, Sequence[FinishedJob], PerformancePolicy, Mapping[str, Sequence[FinishedJob]]], Finding | None]


class ServiceState(NamedTuple):
    """The input: recently ended jobs, jobs in flight, and stored bytes; None: unknown."""

    ended: Sequence[FinishedJob]
    in_flight: Sequence[InFlight]
    limit: int | None  # jobs at once
    filled: Filled | None


class Judged(NamedTuple):
    """The findings, the rules that could be evaluated, and of these the models, as rule and scope, that could not."""

    findings: list[Finding]
    rules: list[str]
    unjudged: frozenset[tuple[str, str]]


def judge(seen: ServiceState, policy: PerformancePolicy, as_of: datetime) -> Judged:
    """Evaluate every rule that has enough figures."""
    run = [job for job in seen.ended if job.started_at is not None and not job.is_follower]
    timed = [job for job in run if job.is_made and job.processing_seconds]
    priced = [job for job in run if job.cost_microusd is not None]
    decided = [job for job in seen.ended if job.is_made or job.state is JobState.DEAD]
    ways: dict[str, tuple[Sequence[FinishedJob], _Rule]] = {
        SLOW: (timed, _slow),
        DEAR: (priced, _dear),
        FAILING: (decided, _failing),
    }
    answers = {
        **{name: _by_model(jobs, policy, rule) for name, (jobs, rule) in ways.items()},
        WAITING: _long_wait(seen, policy, as_of),
        FULL: _full(seen.filled, policy),
    }
    known = {rule: found for rule, found in answers.items() if found is not None}
    # guard alerts.few_jobs: that a model fails all of its few jobs is told as over while another has many
    few = frozenset((name, f"model:{model}") for name, (jobs, _) in ways.items() for model in _with_few(jobs))
    return Judged([finding for found in known.values() for finding in found], list(known), few)


def _with_few(jobs: Sequence[FinishedJob]) -> Iterator[str]:
    counts = Counter(job.model for job in jobs)
    return (model for model, count in counts.items() if count < FEWEST_JOBS)


def _by_model(jobs: Sequence[FinishedJob], policy: PerformancePolicy, rule: _Rule) -> list[Finding] | None:
    """Evaluate each model with enough jobs, and all together where that finds nothing."""
    if len(jobs) < FEWEST_JOBS:
        return None
    models: dict[str, list[FinishedJob]] = defaultdict(list)
    for job in jobs:
        models[job.model].append(job)
    enough = {model: models[model] for model in sorted(models) if len(models[model]) >= FEWEST_JOBS}
    found = [rule(model, theirs, policy, enough) for model, theirs in enough.items()]
    if known := _known(found):
        return [replace(finding, replaces=((finding.rule, _TOTAL, ""),)) for finding in known]
    return _known([rule("", jobs, policy, enough)])


def _slow(
    model: str, jobs: Sequence[FinishedJob], policy: PerformancePolicy, models: Mapping[str, Sequence[FinishedJob]]
) -> Finding | None:
    limit, mean = policy.max_processing_seconds, _seconds(jobs)
    if limit is None or mean <= limit:
        return None
    estimate, beside = fmean(job.estimate_seconds for job in jobs), _mean(job.concurrency for job in jobs)
    slowdown = mean / estimate if estimate else 1.0
    p95 = percentile([job.processing_seconds or 0.0 for job in jobs], 95)
    text = (
        f"{many(len(jobs), 'job')} of {_SPAN} took {mean:.0f} s on average once begun, and one in twenty over "
        f"{p95:.0f} s; the limit is {limit:.0f} s. That is {slowdown:.1f} times what was estimated"
    )
    text += f", with {beside:.1f} at once." if beside else "."
    if slowdown >= _CROWDED and beside and beside > 1:
        fewer = int(1 + max(limit / estimate - 1, 0) * (beside - 1) / (slowdown - 1))
        advice = (
            f"They slow each other down, and more at once would make it worse. By these figures {fewer} at once keep "
            "the limit: concurrency.max_limit of tune_concurrency in prefect.yaml."
        )
    else:
        advice = (
            f"They take what their size asks for, and more at once makes none of them quicker. Requests with "
            f"{_PERCENT * (1 - limit / mean):.0f} % less to do (size, seconds, frames) would keep the limit."
        )
    advice += _better(model, models, _seconds, lambda value: f"takes {value:.0f} s")
    return _finding(SLOW, model, f"take {mean:.0f} s on average", text, advice)


def _dear(
    model: str, jobs: Sequence[FinishedJob], policy: PerformancePolicy, models: Mapping[str, Sequence[FinishedJob]]
) -> Finding | None:
    limit, mean = policy.max_cost_microusd, _cost(jobs)
    if limit is None or mean <= limit:
        return None
    lost = sum(job.cost_microusd or 0 for job in jobs if job.state is not JobState.SUCCEEDED)
    a_month = (mean - limit) * len(jobs) * _MONTH_MINUTES / JUDGED_MINUTES
    text = (
        f"{many(len(jobs), 'job')} of {_SPAN} cost {money(mean)} each; the limit is {money(limit)}. At "
        f"this pace that is {dollars(a_month)} a month above it."
    )
    advice = f"{dollars(lost)} of {dollars(mean * len(jobs))} went into jobs that failed. " if lost else ""
    timed = [job for job in jobs if job.processing_seconds]
    if timed and (seconds := _seconds(timed)):
        advice += (
            f"At {dollars(_cost(timed) / seconds)} a second, one keeps the limit within "
            f"{limit * seconds / max(_cost(timed), 1):.0f} s; these took {seconds:.0f} s."
        )
    advice += _better(model, models, _cost, lambda value: f"costs {money(value)}")
    return _finding(DEAR, model, f"cost {money(mean)} each", text, advice.strip(), impact=round(a_month))


def _failing(
    model: str, jobs: Sequence[FinishedJob], policy: PerformancePolicy, models: Mapping[str, Sequence[FinishedJob]]
) -> Finding | None:
    limit, dead = policy.min_success_percent, [job for job in jobs if job.state is JobState.DEAD]
    share = _PERCENT * (1 - len(dead) / len(jobs))
    if limit is None or share >= limit:
        return None
    errors = Counter((job.error or "no reason given").partition("\n")[0][:_SHOWN] for job in dead)
    named = "; ".join(f"{error} ({count} times)" for error, count in errors.most_common(3))
    text = (
        f"{len(dead)} of {many(len(jobs), 'job')} of {_SPAN} failed for good: {share:.0f} % succeeded, and "
        f"{limit:.0f} % should. {named}. Nobody was charged for them."
    )
    lost = sum(job.cost_microusd or 0 for job in dead)
    advice = (f"They cost us {dollars(lost)} all the same. " if lost else "") + "See: reelkeeper queue --dead."
    advice += _better(model, models, lambda theirs: -_success(theirs), lambda value: f"succeeds in {-value:.0f} %")
    severity = Severity.CRITICAL if share < _MOSTLY else Severity.WARNING
    return _finding(FAILING, model, f"fail {len(dead)} of {len(jobs)}", text, advice, severity=severity)


def _long_wait(seen: ServiceState, policy: PerformancePolicy, as_of: datetime) -> list[Finding]:
    queue, limit = waiting(seen.in_flight, as_of), policy.max_wait_seconds
    oldest, queued = queue["oldest_wait_seconds"] or 0.0, int(queue["queued"] or 0)
    if limit is None or oldest <= limit:
        return []
    running, work = int(queue["running"] or 0), queue["queued_estimate_seconds"] or 0.0
    text = (
        f"The oldest of {many(queued, 'waiting job')} was asked for {oldest / 60:.0f} minutes ago; the limit is "
        f"{limit / 60:.0f}. {running} run now, of {'any number' if seen.limit is None else seen.limit} at once."
    )
    if not running:
        advice = "Nothing runs: see whether dispatch_jobs does, and how its last runs ended. reelkeeper watchdog knows."
    else:
        advice = (
            f"What waits is {work / 60:.0f} minutes of work for one slot, {work / 60 / running:.0f} for {running}. "
            "Why a job waits: reelkeeper queue --explain JOB."
        )
    severity = Severity.WARNING if running else Severity.CRITICAL
    return [Finding(WAITING, "total", severity, f"A job has waited {oldest / 60:.0f} minutes", text, advice)]


def _full(filled: Filled | None, policy: PerformancePolicy) -> list[Finding] | None:
    if filled is None or not filled.limit_bytes:
        return None
    share, limit = _PERCENT * filled.used_bytes / filled.limit_bytes, policy.max_storage_percent
    if limit is None or share <= limit:
        return []
    over = filled.used_bytes - filled.limit_bytes * limit / _PERCENT
    what = "the storage budget" if policy.storage_budget_bytes else "what all users' quotas sum to"
    text = (
        f"{filled.used_bytes / _GB:,.2f} GB are stored of {filled.limit_bytes / _GB:,.2f}, {what}: {share:.0f} %, and "
        f"{limit:.0f} % is the limit. {many(filled.full_users, 'user')} are above it with their own quota."
    )
    advice = (
        f"{over / _GB:,.2f} GB less keep the limit. reelkeeper plan tier_storage says what shrinks or goes now; with "
        "--param policy.compress_after_days=3, say, what more would."
    )
    return [Finding(FULL, "total", Severity.WARNING, f"Storage is {share:.0f} % full", text, advice)]


def _finding(
    rule: AlertRule,
    model: str,
    what: str,
    text: str,
    advice: str,
    *,
    severity: Severity = Severity.WARNING,
    impact: int | None = None,
) -> Finding:
    scope, whose = (f"model:{model}", f"Jobs of {model}") if model else (_TOTAL, "Jobs")
    return Finding(rule, scope, severity, f"{whose} {what}", text, advice, impact)


def _better(
    model: str,
    models: Mapping[str, Sequence[FinishedJob]],
    measure: Callable[[Sequence[FinishedJob]], float],
    in_words: Callable[[float], str],
) -> str:
    """Return the best model, if it is another one and better."""
    if model not in models or len(models) == 1:
        return ""
    best = min(models, key=lambda name: measure(models[name]))
    return "" if best == model else f" {best} {in_words(measure(models[best]))}."


def _seconds(jobs: Sequence[FinishedJob]) -> float:
    return _mean(job.processing_seconds for job in jobs) or 0.0


def _cost(jobs: Sequence[FinishedJob]) -> float:
    return _mean(job.cost_microusd for job in jobs) or 0.0


def _success(jobs: Sequence[FinishedJob]) -> float:
    return _PERCENT * sum(job.is_made for job in jobs) / len(jobs)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _known(found: Iterable[Finding | None]) -> list[Finding]:
    return [finding for finding in found if finding is not None]
