"""Forecast what this month and the next will cost: read usage from the store, forecast, price and record it."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal

import pandas as pd
from pydantic import ValidationError

from reelkeeper.errors import InputRefused, UsageUnknown
from reelkeeper.model.money import CostForecast, JobTotal, Metric, StorageClass, Used
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.core.policies import current
from reelkeeper.rules.billing.allocation import API, COMPUTE, STORAGE, believed
from reelkeeper.rules.billing.cheaper import Cheaper, EqualRequests, Repeat, Spent, by_cause, cheaper
from reelkeeper.rules.billing.pricing import InfrequentAccessUsage, StandardUsage, Usage, gb_months
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, class_of
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.forecast import lines
from reelkeeper.rules.forecast.costs import TOTAL, Cost, Stored, expected_peaks, look, predict, rows
from reelkeeper.rules.forecast.lines import UsageLine
from reelkeeper.rules.forecast.month import outlook
from reelkeeper.rules.forecast.storage import Cohort, Kind, Stock, known_expiries, shares_by_life
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import job_totals, usage
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.forecast import forecasts
from reelkeeper.store.lifecycle import backlog
from reelkeeper.store.videos.videos import live_videos

_HISTORY_DAYS: Final = 730
_TIERS_OVER_DAYS: Final = 60  # their uploads show which tiers continue to upload
_ONE_DAY: Final = timedelta(days=1)
_COLD: Final = StorageClass.INFREQUENT_ACCESS

Days = Mapping[date, float]


@dataclass(frozen=True, slots=True)
class MonthlyCost:
    """The forecast cost of a month, in dollars. `total_usd` also includes operations and retrieval."""

    month: date
    storage_usd: float
    compute_usd: float
    api_usd: float
    total_usd: float
    lower80_usd: float
    upper80_usd: float


@dataclass(frozen=True, slots=True)
class ResourceNeeds:
    """The forecast needs of a month. None is unknown: it was never counted."""

    month: date
    stored_bytes: int | None  # at its end
    jobs: int | None
    generation_seconds: int | None
    users: int | None  # at its end
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Known:
    """The recorded usage, in the form that the forecast takes."""

    lines: tuple[UsageLine, ...]
    stored: Stored
    others: Mapping[Metric, "pd.Series[float]"]
    first: date | None  # the first with any usage


def gather(engine: Engine, as_of: datetime, policies: Policies) -> Known:
    """Read two years of usage up to yesterday, the stored bytes, and those known to be deleted: none by a trial."""
    today = as_of.date()
    with reading(engine) as session:
        used = list(usage.days(session, today - _HISTORY_DAYS * _ONE_DAY, today - _ONE_DAY, of_users=False))
        cohorts, uploaded, kept_days = _kept(session, as_of, policies)
        purging = backlog.purging_by_day(session)
        is_trial = deployment.trial(session) is not None
        of_providers = job_totals.by_day(session, ("provider",), today - _HISTORY_DAYS * _ONE_DAY, today - _ONE_DAY)
    series = _by_line(used)
    peaks = series.get((Metric.STORED_BYTES, ""), {})
    stock = Stock(
        round(peaks[max(peaks)]) if peaks else sum(cohort.size_bytes for cohort in cohorts) + sum(purging.values())
    )
    if not is_trial:
        going = known_expiries(cohorts, purging, kept_days)
        stock = Stock(stock.alive_bytes, going, shares_by_life(uploaded, kept_days))
    cold = series.get((Metric.STORED_BYTES, _COLD), {})
    moved = series.get((Metric.UPLOADED_BYTES, ""))
    stored = Stored(
        stock, _this_month(peaks, today), _series(moved) if moved else None, round(cold[max(cold)]) if cold else 0
    )
    others = {metric: _series(series[metric, ""]) for metric in _OTHERS if (metric, "") in series}
    counted = {item.day for item in used if item.metric is Metric.STORED_BYTES}
    found = (*_lines(series, policies.book), *_providers(of_providers, counted))
    return Known(found, stored, others, min((item.day for item in used), default=None))


def _kept(
    session: Session, as_of: datetime, policies: Policies
) -> tuple[list[Cohort], dict[Kind, int], dict[Kind, int | None]]:
    """Read the stored and the uploaded bytes, and the days of retention and grace, by tier or segment and tier."""
    since = as_of.date() - _TIERS_OVER_DAYS * _ONE_DAY
    policy, grace = policies.lifecycle, policies.lifecycle.grace
    names = (*(segment.name for segment in policy.segments), None)
    kept_days: dict[Kind, int | None] = {
        (_of_segment(name, tier), is_ours): None if days is None else days + after
        for name in names
        for tier, days in policy.tiers_within(name, policies.tiers).retention_days().items()
        for is_ours, after in ((True, grace.days), (False, grace.service_days))
    }
    if not policy.segments:
        live = backlog.live_by_day_and_tier(session, as_of)
        cohorts = [Cohort(day, (tier, is_ours), size_bytes) for day, tier, is_ours, size_bytes in live]
        return cohorts, backlog.uploaded_by_tier(session, since), kept_days

    stored, uploaded = Counter[tuple[date | None, Kind]](), Counter[Kind]()
    for video in live_videos(session, as_of):
        if not video.held:
            day = video.created_at.date() if video.created_at else None
            tier = video.tier and _of_segment(policy.segment_of(video), video.tier)
            stored[day, (tier, video.is_ours)] += video.size_bytes
    for made in backlog.uploaded(session, since):
        tier = made.tier and _of_segment(policy.segment_of(made), made.tier)
        uploaded[tier, made.is_ours] += made.size_bytes
    return [Cohort(day, kind, size_bytes) for (day, kind), size_bytes in stored.items()], dict(uploaded), kept_days


def _of_segment(segment: str | None, tier: str) -> str:
    return f"{segment}/{tier}" if segment else str(tier)


_OTHERS: Final = (Metric.JOBS, Metric.GENERATION_SECONDS, Metric.USERS)
_OF_OPERATIONS: Final = frozenset({"A", "B", Metric.RETRIEVED_BYTES})  # no row on a day without any
_OF_JOBS: Final = frozenset({"job", Metric.JOBS, Metric.GENERATION_SECONDS, Metric.CLIP_JOBS, Metric.JOB_MICROUSD})


def predict_costs(
    engine: Engine,
    as_of: datetime,
    *,
    policies: Policies,
    months: int = 2,
    growth_percent_per_month: float | None = None,
) -> list[Cost]:
    """Forecast the bill of this month and those after it, by service, the total of each month first.

    Raises UsageUnknown where nothing was counted before today: unknown is not zero. InputRefused for growth to more
    than any account has.
    """
    known = _required(gather(engine, as_of, policies), as_of)
    return _predicted(known, as_of, months, growth_percent_per_month)


def _predicted(known: Known, as_of: datetime, months: int, growth_percent_per_month: float | None) -> list[Cost]:
    try:
        return predict(known.lines, known.stored, as_of.date(), months, growth_percent_per_month)
    except ValidationError:  # of the usage that is priced
        raise InputRefused(
            f"by the forecast of {many(months, 'month')}, usage grows to more than any account has: ask for fewer "
            "months, or less growth"
        ) from None


def record(engine: Engine, costs: Sequence[Cost], *, run_id: str, as_of: datetime) -> list[CostForecast]:
    """Record a forecast, for budgets, reports and later comparison."""
    forecast_rows = rows(costs, as_of)
    with transaction(engine, "forecast.record") as session:
        forecasts.record(session, run_id, forecast_rows)
    return forecast_rows


def stored_now(engine: Engine, as_of: datetime, policies: Policies) -> Usage:
    """Return the usage of a month with the bytes stored now, as a base to measure savings by."""
    stored = gather(engine, as_of, policies).stored
    return Usage(
        standard=StandardUsage(gb_month=gb_months([stored.stock.alive_bytes])),
        infrequent_access=InfrequentAccessUsage(gb_month=gb_months([stored.infrequent_bytes])),
    )


def repeats(engine: Engine, as_of: datetime) -> Mapping[Repeat, Spent]:
    """Sum the jobs of the last 30 days that made a video again, by the reason."""
    with reading(engine) as session:
        return by_cause(forecasts.repeats(session, as_of - DAYS_A_MONTH * _ONE_DAY))


def cheaper_ways(engine: Engine, as_of: datetime, book: PriceBook) -> list[Cheaper]:
    """Find where the clips of the last 30 days would have cost less: at another provider, or without sound."""
    counts = Counter[tuple[str, str | None]]()
    with reading(engine) as session:
        for request, provider in forecasts.requests_made(session, as_of - DAYS_A_MONTH * _ONE_DAY):
            # prompts differ and cost nothing
            counts[json.dumps({**request, "prompt": "-"}, sort_keys=True), provider] += 1
    return cheaper(_equal_requests(counts), book)


def _equal_requests(counts: Mapping[tuple[str, str | None], int]) -> Iterable[EqualRequests]:
    for (text, provider), count in counts.items():
        with suppress(ValidationError):  # of an earlier version, with fields that are invalid today
            yield EqualRequests(GenerationRequest.model_validate_json(text), provider, count)


def predict_monthly_cost(
    engine: Engine, as_of: datetime, *, growth_percent_per_month: float | None = None
) -> MonthlyCost:
    """Forecast the cost of next month, by part and in total; with growth, if users grew by that percentage a month.

    Raises UsageUnknown where nothing was counted before today.
    """
    policies = current(engine).policies
    costs = predict_costs(engine, as_of, policies=policies, growth_percent_per_month=growth_percent_per_month)
    month = max(cost.month for cost in costs)
    by_service = {cost.service: cost for cost in costs if cost.month == month}
    storage, compute, api = (
        by_service[name].mean_usd if name in by_service else 0.0 for name in (STORAGE, COMPUTE, API)
    )
    total = by_service[TOTAL]
    lower, upper = total.bounds[80]
    return MonthlyCost(month, storage, compute, api, total.mean_usd, lower, upper)


def predict_resource_needs(
    engine: Engine, as_of: datetime, *, growth_percent_per_month: float | None = None
) -> ResourceNeeds:
    """Forecast next month's bytes, jobs, seconds of generation, users and dollars. Raises as above."""
    known, today = _required(gather(engine, as_of, current(engine).policies), as_of), as_of.date()
    costs = _predicted(known, as_of, 2, growth_percent_per_month)
    month = max(cost.month for cost in costs)
    seen = {metric: outlook(series, today, 2, growth_percent_per_month) for metric, series in known.others.items()}
    last = (month + 31 * _ONE_DAY).replace(day=1) - _ONE_DAY
    uploads = look(known.stored.uploads, today, 2, growth_percent_per_month)
    peaks = expected_peaks(known.stored, uploads, today, last, 0.5)
    sums = {
        metric: round(seen[metric].months[-1].mean) if metric in seen else None
        for metric in (Metric.JOBS, Metric.GENERATION_SECONDS)
    }
    return ResourceNeeds(
        month,
        peaks.get(last),
        sums[Metric.JOBS],
        sums[Metric.GENERATION_SECONDS],
        round(float(seen[Metric.USERS].path.iloc[-1])) if Metric.USERS in seen else None,
        next(cost.mean_usd for cost in costs if (cost.month, cost.service) == (month, TOTAL)),
    )


def _required(known: Known, as_of: datetime) -> Known:
    if known.first is None:
        raise UsageUnknown(
            f"no usage is recorded for any day before {as_of:%Y-%m-%d}. A forecast needs at least one whole day: "
            "monitor_costs records usage every hour"
        )
    return known


def _by_line(used: Iterable[Used]) -> dict[tuple[str, str], dict[date, float]]:
    """Sum usage by line and day. A counted day without any of a line had none: it is known, and no gap."""
    counted, days_of = believed(used), defaultdict[Metric, set[date]](set)
    for day, metric in counted:
        days_of[metric].add(day)
    found: dict[tuple[str, str], dict[date, float]] = defaultdict(dict)
    for (day, metric), items in counted.items():
        for item in items:
            for key in _keys(metric, item):
                found[key][day] = found[key].get(day, 0.0) + item.quantity
    for (name, _), own in found.items():
        if name in _OF_OPERATIONS:
            _add_zeros(own, days_of[Metric.OPERATIONS])
        elif name in _OF_JOBS:
            first = min(own)  # a model that is new had not been sold before
            _add_zeros(own, (day for day in days_of[Metric.STORED_BYTES] if day > first))
    return found


def _add_zeros(days: dict[date, float], counted: Iterable[date]) -> None:
    for day in counted:
        days.setdefault(day, 0.0)


def _keys(metric: Metric, item: Used) -> list[tuple[str, str]]:
    if metric is Metric.OPERATIONS:
        kind = class_of(item.resource)
        return [(kind, item.storage_class or StorageClass.STANDARD)] if kind else []
    if metric is Metric.JOBS:
        return [(metric, ""), ("job", item.resource)]
    if metric in {Metric.CLIP_JOBS, Metric.JOB_MICROUSD}:
        return [(metric, item.resource)]
    if metric is Metric.STORED_BYTES:
        return [(metric, _COLD if item.storage_class == _COLD else "")]
    return [(metric, "")]


def _lines(series: Mapping[tuple[str, str], Days], book: PriceBook) -> Iterable[UsageLine]:
    kinds: tuple[Literal["A", "B"], ...] = ("A", "B")
    for (name, rest), days in sorted(series.items()):
        for kind in kinds:
            if name == kind:
                yield lines.operations(kind, StorageClass(rest), _series(days))
        if name == "job":
            by_clip = series.get((Metric.CLIP_JOBS, rest), {})  # these have no flat price
            flat = {day: max(0.0, count - by_clip.get(day, 0.0)) for day, count in days.items()}
            yield lines.jobs(rest, _series(flat), book)
        if name == Metric.JOB_MICROUSD:
            yield lines.clips(rest, _series(days))
        if name == Metric.RETRIEVED_BYTES:
            yield lines.retrieval(_series(days))


def _providers(totals: Iterable[JobTotal], counted: Collection[date]) -> Iterable[UsageLine]:
    """Return the line of each provider. After its first day, a counted day without a total cost nothing."""
    by_scope: dict[str, dict[date, float]] = defaultdict(dict)
    for total in totals:
        by_scope[total.scope][date.fromisoformat(total.period)] = float(total.microusd)
    for scope, days in sorted(by_scope.items()):
        first = min(days)
        _add_zeros(days, (day for day in counted if day > first))
        yield lines.provider(scope, _series(days))


def _this_month(peaks: Days, today: date) -> dict[date, int]:
    """Return the peaks of this month's days so far; a day without a figure gets the last known one."""
    found, day = dict[date, int](), today.replace(day=1)
    last = max((peak for peak in peaks if peak < day), default=None)
    while day < today:
        last = day if day in peaks else last
        if last is not None:
            found[day] = round(peaks[last])
        day += _ONE_DAY
    return found


def _series(days: Days) -> "pd.Series[float]":
    return pd.Series(list(days.values()), pd.DatetimeIndex(pd.to_datetime(list(days))), dtype=float)
