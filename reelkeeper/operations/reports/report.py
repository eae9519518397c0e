"""Gather a month's figures from the store in one snapshot: cost, forecast, storage, savings and alerts."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from reelkeeper.errors import GuardRefused
from reelkeeper.model import Grace, PlannedRule, SearchTotals
from reelkeeper.model.money import CostForecast, Freed, JobTotal, Saved, each_day, end_of_month
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.alerts.cadence import ALL, Parts
from reelkeeper.rules.billing.pricing import within_allowance
from reelkeeper.rules.core.wording import contract_gate
from reelkeeper.rules.lifecycle import guard, savings
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts
from reelkeeper.store.billing import charge_reports, charges, job_totals
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading
from reelkeeper.store.forecast import forecasts
from reelkeeper.store.lifecycle import backlog, crf_searches, plan_results, plans
from reelkeeper.store.videos import stock

_MONTHS_BACK = 12
_MAX_OVER = 50  # alerts
_MAX_PAYERS = 10
_NEVER = date.max
_ONE_DAY = timedelta(days=1)
TOTAL = ""  # the "service" of a forecast for all services


class Trial(NamedTuple):
    """The latest plan of each flow of a trial under the policies in force, and whether limits refuse it."""

    since: datetime
    planned: dict[str, list[PlannedRule]]  # by flow
    refused: frozenset[str]  # flows whose plan the limits of a run refuse
    grace: Grace
    free: str  # that R2 bills nothing for what is stored; "" if it does
    gate: str  # why videos at the service's keys stay where the bucket has not passed the contract test; "" if none do

    @property
    def saving_microusd(self) -> int:
        """Sum the dollars a month of what would be done, in micro-dollars at list price."""
        done = (rules for flow, rules in self.planned.items() if flow not in self.refused)
        return sum(rule.saving_microusd or 0 for rules in done for rule in rules)


@dataclass(frozen=True, slots=True)
class MonthReport:
    """The figures of a month for pages and pictures. Amounts are integers, in the unit of their name."""

    month: date  # its first day
    as_of: datetime
    budgets: BudgetPolicy
    spent: list[charge_reports.Spent]
    lines: list[charge_reports.SkuLine]
    payers: list[charges.Sum]  # the residual, and users at list price, the largest first
    other_payers: charges.Others
    jobs: list[JobTotal]  # of this month's jobs, by provider and by model
    months: dict[date, int]  # nano-dollars billed in each of the last months, including this one
    expected: list[CostForecast]  # of this month and later ones
    stock: list[stock.Stock]
    tiers: tuple[str, ...]  # the tiers in force, from the least to the most paid
    grace_bytes: int
    freed: list[Freed]
    saved: list[Saved]
    searches: SearchTotals
    smaller: list[savings.SmallerBy]
    machines: list[tuple[str, SearchTotals]]  # of this month's searches
    alerts: list[alerts.ListedAlert]
    trial: Trial | None = None
    parts: Parts = ALL  # what is deployed

    @property
    def last_day(self) -> date:
        """The last day of the month that has begun."""
        return min(end_of_month(self.month), self.as_of.date())

    @property
    def is_over(self) -> bool:
        """Check whether the whole month is past."""
        return self.as_of.date() > end_of_month(self.month)

    @property
    def billed_nanousd(self) -> int:
        """The month's bill so far, in nano-dollars."""
        return sum(spending.billed_nanousd for spending in self.spent)

    @property
    def unknown_days(self) -> list[date]:
        """The days that are over and have no charge at all: their cost is unknown.

        Days before the very first charge do not count: nothing was installed then.
        """
        known = {spending.day for spending in self.spent}
        ended = self.last_day if self.is_over else self.last_day - _ONE_DAY
        is_first = not any(month < self.month for month in self.months)
        return [
            day
            for day in each_day(self.month, ended)
            if day not in known and not (is_first and day < min(known, default=_NEVER))
        ]

    @property
    def this_month(self) -> CostForecast | None:
        """The expected total cost of this month, unless it is over or there is no forecast."""
        totals = (forecast for forecast in self.expected if forecast.service == TOTAL and forecast.month == self.month)
        return None if self.is_over else next(totals, None)

    @property
    def stored_bytes(self) -> int:
        """The bytes of live videos now."""
        return sum(item.size_bytes for item in self.stock)


def gather(engine: Engine, month: date, as_of: datetime, budgets: BudgetPolicy | None = None) -> MonthReport:
    """Read all figures of the month that begins on day `month`, as of a moment in or after it.

    `budgets` is an exception to the policy in force.
    """
    last, earliest, name = end_of_month(month), _months_before(month, _MONTHS_BACK), f"{month:%Y-%m}"
    first, until = (datetime.combine(day, time(), UTC) for day in (month, last + _ONE_DAY))
    to_come = max(month, as_of.date().replace(day=1))  # of months that are over there are bills
    until = min(as_of, until)
    with reading(engine) as session:
        policies = in_force(session).policies
        gone = backlog.freed_by_day(session, until)
        payers, others = charges.dearest(session, month, last, _MAX_PAYERS)
        return MonthReport(
            month=month,
            as_of=as_of,
            budgets=policies.overridden(budget=budgets).budget,
            spent=charge_reports.by_day_and_service(session, month, last),
            lines=charge_reports.by_sku(session, month, last),
            payers=payers,
            other_payers=others,
            jobs=[total for kind in ("provider", "model") for total in job_totals.of_kind(session, kind, [name], 1)],
            months=charge_reports.by_month(session, earliest, last),
            expected=[forecast for forecast in forecasts.latest(session, as_of) if forecast.month >= to_come],
            stock=stock.by_age_and_tier(session, as_of),
            tiers=policies.tiers.names,
            grace_bytes=stock.in_grace(session).size_bytes,
            freed=gone,
            saved=list(savings.per_day(gone, min(last, as_of.date()))),
            searches=crf_searches.totals(session),
            smaller=savings.smaller_by_model(
                crf_searches.by_model(session),
                crf_searches.less_by_day(session),
                grace=policies.lifecycle.grace,
                until=until.date(),
            ),
            machines=crf_searches.by_machine(session, first, until),
            alerts=_alerts(session, (first, until)),
            trial=_trial(session, policies),
            parts=Parts.of(deployment.deployed(session)),
        )


def _alerts(session: Session, during: tuple[datetime, datetime]) -> list[alerts.ListedAlert]:
    # guard alerts.all_reported: behind 50 newer alerts, a critical one and the levers are not in the report
    firing = len(alerts.listed(session, everything=False, during=during))
    return alerts.listed(session, everything=True, limit=firing + _MAX_OVER, during=during)


def _trial(session: Session, policies: Policies) -> Trial | None:
    since = deployment.trial_since(session)
    if since is None:
        return None
    planned, refused, gate = dict[str, list[PlannedRule]](), set[str](), ""
    before = plan_results.retired_in_24h(session), plan_results.last_population(session)
    limits = policies.limits.model_dump(include=guard.MAKING)
    for flow, names in TERMS.items():
        under = plans.policy_hash(terms_in(policies, names))
        plan_id = plan_results.latest(session, flow, under, since, limits)
        if plan_id is None:
            continue
        planned[flow] = plan_results.by_rule(session, plan_id)
        summary = plans.load_summary(session, plan_id)
        if "contract_not_tried" in summary.kept:
            gate = contract_gate(deployment.last_failed(session))
        try:
            guard.within(policies.limits, summary, *before)
        except GuardRefused:
            refused.add(flow)
    free = within_allowance(stock.stored_bytes(session))
    return Trial(since, planned, frozenset(refused), policies.lifecycle.grace, free, gate)


def _months_before(month: date, count: int) -> date:
    years, index = divmod(month.year * 12 + month.month - 1 - count, 12)
    return date(years, index + 1, 1)
