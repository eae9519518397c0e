"""`monitor_costs`: collects, charges, judges, and alerts once; a dry run only judges earlier charges."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.monitor_costs import monitor_costs
from reelkeeper.model.money import Metric, Used
from reelkeeper.operations.billing.metering import charge_month
from reelkeeper.operations.core import freeze
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.spend.budget import Budget, BudgetPolicy, Period
from reelkeeper.settings import settings
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import alerts, charges, heartbeats, outbox, usage_days
from tests.doubles.cloudflare import ACCOUNT, CloudflareDouble
from tests.flows.scenes import KEPT_TABLES, Scene
from tests.reading import DRAWN, as_read

USUAL, MANY = 400, 900  # jobs a day, of $0.015: $6.00 and $13.50
MONTHLY = BudgetPolicy(monthly_usd=None)  # which of its levels is crossed depends on the day of the month


def today() -> date:
    return datetime.now(UTC).date()


def ago(days: int) -> date:
    return today() - timedelta(days=days)


def jobs(engine: sa.Engine, count: int, *days: date) -> None:
    """Record the numbers of ann's jobs on these days."""
    with transaction(engine, "test") as session:
        record(session, [Used(day, Metric.JOBS, count, user_id=user) for day in days for user in ("", "ann")])


@pytest.fixture
def spending(scene: Scene) -> Scene:
    """Ann has run 400 jobs a day for 40 days, and 900 today; the months before are charged."""
    scene.video("v1", age_days=50)
    jobs(scene.engine, USUAL, *map(ago, range(1, 41)))
    jobs(scene.engine, MANY, today())
    with transaction(scene.engine, "test") as session:
        stored = [Used(ago(n), Metric.STORED_BYTES, 10**6, "bucket") for n in range(1, 41)]
        record(session, stored)
    for month in sorted({ago(n).replace(day=1) for n in range(1, 41)}):
        charge_month(scene.engine, PriceBook(), month, ago(1))
    return scene


def told(scene: Scene) -> list[tuple[str, str, str, str, str]]:
    columns = (alerts.c[name] for name in ("rule", "scope", "period", "level", "state"))
    with reading(scene.engine) as session:
        rows = session.execute(sa.select(*columns).order_by(alerts.c.rule, alerts.c.scope, alerts.c.level)).all()
    return [tuple(row) for row in rows]


def messages(scene: Scene) -> int:
    with reading(scene.engine) as session:
        return len(session.execute(sa.select(outbox.c.id)).all())


def test_a_dry_run_judges_what_was_charged_and_changes_nothing(spending: Scene) -> None:
    def everything() -> list[object]:
        with reading(spending.engine) as session:
            rows = [tuple(session.execute(sa.select(table)).all()) for table in (*KEPT_TABLES, charges, alerts, outbox)]
            used = sa.select(usage_days).where(usage_days.c.metric != Metric.OPERATIONS)  # looking is an operation too
            return [*rows, tuple(session.execute(used).all())]

    before = everything()
    report = monitor_costs(BudgetPolicy(monthly_usd=None, daily_usd=Decimal(6)))
    assert everything() == before
    assert report.spent_today == "$0.00"
    assert [text.partition(":")[0] for text in report.found] == ["critical"]
    assert as_read(report.found[0], yesterday=ago(1), **DRAWN) == snapshot("""\
critical: Daily budget at 100 %: $6.00 of $6.00. $6.00 of $6.00 spent in <yesterday>, as of <at>
  UTC. Most of it: compute $4.00, api $2.00. Some of the usage is an estimate.\
""")


@pytest.mark.long
def test_a_run_counts_charges_and_tells_once(spending: Scene) -> None:
    report = monitor_costs(MONTHLY, dry_run=False)
    assert report.spent_today == "$13.50"
    assert report.days_charged >= 1
    assert told(spending) == [
        ("anomaly", "total", f"{today()}", "", "firing"),
        ("budget", "total", f"{today()}", "100", "firing"),
    ]
    assert (report.news, messages(spending)) == (2, 2)
    again = monitor_costs(MONTHLY, dry_run=False)
    assert (again.found, again.news) == (report.found, 0)
    assert messages(spending) == 2


@pytest.mark.long
def test_a_budget_that_was_exceeded_while_the_flow_did_not_run_is_told(spending: Scene) -> None:
    monitor_costs(MONTHLY, dry_run=False)
    jobs(spending.engine, MANY, ago(3))
    with transaction(spending.engine, "test") as session:
        session.execute(sa.update(heartbeats).values(last_ok_at=Clock(-4 * 86_400)))
    monitor_costs(MONTHLY, dry_run=False)
    assert ("budget", "total", f"{ago(3)}", "100", "firing") in told(spending)
    count = messages(spending)
    monitor_costs(MONTHLY, dry_run=False)
    assert messages(spending) == count
    assert ("budget", "total", f"{ago(3)}", "100", "firing") not in told(spending)


@pytest.mark.long
def test_a_higher_level_is_news_and_a_corrected_spend_resolves_the_alert(spending: Scene) -> None:
    monitor_costs(MONTHLY, dry_run=False)
    jobs(spending.engine, 1100, today())  # $16.50
    assert monitor_costs(MONTHLY, dry_run=False).news == 1
    jobs(spending.engine, USUAL - 100, today())
    report = monitor_costs(MONTHLY, dry_run=False)
    assert (report.found, report.over) == ((), 2)
    assert {state for *_, state in told(spending)} == {"resolved"}


@pytest.mark.long
def test_a_budget_of_a_user_counts_that_user_alone(spending: Scene) -> None:
    budgets = tuple(
        Budget(scope=scope, period=Period.DAY, usd=Decimal(13)) for scope in ("user:ann", "user:bob", "tier:pro")
    )
    policy = BudgetPolicy(daily_usd=None, monthly_usd=None, budgets=budgets)
    monitor_costs(policy, dry_run=False)
    assert [row[1] for row in told(spending) if row[0] == "budget"] == ["tier:pro", "user:ann"]


@pytest.mark.long
def test_uncounted_days_are_reported_until_they_are_known(spending: Scene) -> None:
    missing = [ago(2), ago(3)]
    with transaction(spending.engine, "test") as session:
        session.execute(
            sa.delete(usage_days).where(usage_days.c.metric == Metric.STORED_BYTES, usage_days.c.day.in_(missing))
        )
    report = monitor_costs(dry_run=False)
    (gap,) = (text for text in report.found if "Usage of 2 days is missing" in text)
    assert f"{ago(3)}, {ago(2)}" in gap
    with transaction(spending.engine, "test") as session:
        record(session, [Used(day, Metric.STORED_BYTES, 10**6, "bucket") for day in missing])
    assert monitor_costs(dry_run=False).over == 1


@pytest.mark.long
@pytest.mark.usefixtures("scene")
def test_a_store_that_has_never_counted_has_no_gaps() -> None:
    assert monitor_costs().found == ()
    assert monitor_costs(dry_run=False).found == ()


@pytest.mark.long
def test_spend_alerts_are_sent_during_a_freeze(spending: Scene) -> None:
    freeze.freeze(spending.engine, by="ops", reason="an audit")
    assert monitor_costs(MONTHLY, dry_run=False).news == 2


@pytest.mark.long
def test_without_an_answer_from_cloudflare_our_count_is_used_and_people_are_alerted(
    spending: Scene, cloudflare: CloudflareDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CLOUDFLARE_API_TOKEN": "of-last-year",
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_URL": cloudflare.url,
    }.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    settings.cache_clear()
    report = monitor_costs(MONTHLY, dry_run=False)
    assert report.spent_today == "$13.50"
    assert as_read(report.trouble) == snapshot("""\
Cloudflare does not accept REELKEEPER_CLOUDFLARE_API_TOKEN (Unauthorized): it is expired,
  revoked or mistyped. Make a new one with 'Account Analytics: Read' and, for the billed amounts,
  'Billing: Read'\
""")
    assert ("missing_usage", "source:cloudflare", "", "", "firing") in told(spending)
