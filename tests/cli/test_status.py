"""`status`: everything on one screen, as JSON, and as an exit code."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Charge
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.health.watchdog import beat
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.billing.pricing import StandardUsage, Usage
from reelkeeper.rules.lifecycle import savings
from reelkeeper.rules.lifecycle.savings import Idle
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.settings import Settings
from reelkeeper.store.billing import charges
from reelkeeper.store.core.engine import now, open_store, reading, transaction
from reelkeeper.store.tables import deployment, heartbeats, plans, users
from tests.cli.conftest import Run
from tests.jobs import put, waiting
from tests.policies import put_in_force
from tests.reading import TIME, as_read


@pytest.fixture
def opened(configured: Settings) -> Iterator[sa.Engine]:
    """The store of the command, in which every flow has just succeeded."""
    with open_store(configured) as engine:
        for flow, cadence in CADENCES.items():
            beat(engine, flow, run_id=f"run-of-{flow}", run_seconds=3.25, **cadence._asdict())
        yield engine


def let_pass(engine: sa.Engine, flow: str, hours: float) -> None:
    with transaction(engine, "test") as session:
        chosen = heartbeats.c.flow == flow
        at = now(session) - timedelta(hours=hours)
        session.execute(sa.update(heartbeats).where(chosen).values(last_ok_at=at))


@pytest.mark.usefixtures("opened")
def test_a_healthy_service_says_so_and_ends_with_0(reelkeeper: Run, ask: Callable[..., Any]) -> None:
    assert as_read(reelkeeper("status", "--check").stdout.splitlines()[0], at=TIME) == snapshot(
        "Reelkeeper, <at> UTC: all flows on time, no alert firing"
    )
    found = ask("status", "--check")
    assert (found["overdue"], found["frozen"], found["alerts"]) == ([], None, [])
    assert {flow["flow"] for flow in found["flows"]} == set(CADENCES)
    assert {flow["run_seconds"] for flow in found["flows"]} == {3.25}
    assert found["money"]["daily_budget_usd"] == "10"


@pytest.mark.long
def test_an_overdue_flow_is_highlighted_and_ends_with_10_only_on_request(
    opened: sa.Engine, reelkeeper: Run, ask: Callable[..., Any]
) -> None:
    let_pass(opened, "sync_catalog", 5)
    assert as_read(reelkeeper("status").stdout, only="sync_catalog") == snapshot(
        "✗ sync_catalog 5 hours ago, due every 1 hour"
    )
    assert "overdue: sync_catalog" in reelkeeper("status", "--check", exit_code=10).stderr
    assert ask("status", "--check", exit_code=10)["overdue"] == ["sync_catalog"]


def test_a_freeze_is_shown_first_and_ends_with_3(opened: sa.Engine, reelkeeper: Run) -> None:
    let_pass(opened, "sync_catalog", 5)
    freeze(opened, by="ben", reason="[bold]an audit")
    said = reelkeeper("status", "--check", exit_code=3)
    assert as_read(said.stdout, only="by ben", at=TIME) == snapshot(
        "Reelkeeper, <at> UTC: all changes frozen since <at> by ben: [bold]an audit;"
    )
    assert as_read(said.stderr) == snapshot("error: all changes are frozen: [bold]an audit")


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize(("command", "exit_code"), [("status", 7), ("watchdog", 7), ("doctor", 1)])
def test_where_the_store_is_missing_none_is_made(
    configured: Settings, reelkeeper: Run, command: str, exit_code: int
) -> None:
    said = reelkeeper(command, exit_code=exit_code).output
    assert str(configured.store_file) in said.replace("\n", "")
    assert "REELKEEPER_DATABASE_URL" in said
    assert not (configured.state_dir / "store.sqlite3").exists()
    reelkeeper("db", "upgrade")
    reelkeeper(command)


@pytest.mark.long
@pytest.mark.usefixtures("no_store")
def test_a_store_that_is_new_waits_for_its_flows(configured: Settings, reelkeeper: Run) -> None:
    reelkeeper("db", "upgrade")
    reelkeeper("status", "--check")
    with open_store(configured) as engine, transaction(engine, "test") as session:
        session.execute(sa.update(deployment).values(created_at=now(session) - timedelta(days=30)))
    said = reelkeeper("status", "--check", exit_code=10)
    assert as_read(said.stdout, only="purge_retired") == snapshot("✗ purge_retired never, due every 1 day")


def test_the_queue_and_the_budgets_are_those_of_this_moment(
    opened: sa.Engine, reelkeeper: Run, ask: Callable[..., Any]
) -> None:
    with reading(opened) as session:
        at = now(session)
    with transaction(opened, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
    put(
        opened,
        [
            waiting("first", at - timedelta(minutes=90)),
            waiting("second", at),
            waiting("runs", at - timedelta(hours=3), state=JobState.RUNNING),
            waiting("follows", at - timedelta(hours=2), leader_id="runs"),
        ],
    )
    queue = ask("status")["queue"]
    assert queue["jobs"] == {"queued": 3, "running": 1}
    assert 5400 <= queue["oldest_wait_seconds"] < 5500
    put_in_force(opened, budget=BudgetPolicy(daily_usd=Decimal("12.5"), monthly_usd=None))
    said = reelkeeper("status").stdout
    assert as_read(said, only="$") == snapshot("""\
today $0.00 0% of $12.5
this month $0.00 no budget
saved so far $0.00 at list price\
""")
    assert as_read(said, only="jobs running").startswith("jobs running 1")
    assert as_read(said, only="90 ") == snapshot("jobs waiting 3 the oldest for 90 minutes")
    with transaction(opened, "test") as session:  # nobody has counted, which is not 0
        session.execute(sa.delete(heartbeats).where(heartbeats.c.flow == "monitor_costs"))
    assert as_read(reelkeeper("status").stdout, only="unknown") == snapshot("""\
today unknown monitor_costs has not run
this month unknown monitor_costs has not run\
""")


def test_what_would_lower_the_bill_is_listed_apart_from_alerts_the_largest_first(
    opened: sa.Engine, reelkeeper: Run, ask: Callable[..., Any]
) -> None:
    idle = Idle(late_bytes={"free": 900 * 10**9}, by_user={"ann": 300 * 10**9})
    usage = Usage(standard=StandardUsage(gb_month=Decimal(5000)))
    observe(opened, savings.findings(idle, usage), rules=[savings.RULE], run_id="test")
    found = ask("status")
    assert [(lever["scope"], lever["impact_microusd"]) for lever in found["levers"]] == [
        ("retention:free", 13_500_000),
        ("idle", 4_500_000),
        ("user:ann", 4_500_000),
    ]
    assert found["alerts"] == []
    assert as_read(reelkeeper("status").stdout, only="$4.") == snapshot("""\
$4.50 Retire 300.0 GB that nobody watches
$4.50 Ask user ann about 300.0 GB that nobody watches\
""")


def test_a_budget_that_is_nearly_spent_is_not_shown_as_spent(opened: sa.Engine, reelkeeper: Run) -> None:
    """Alerts and the report cut the percentage off, too."""
    with transaction(opened, "test") as session:
        day = now(session).date()
        charged = Charge(day, "api", "api-veo", "", None, 1, "Jobs", 9_960_000_000, 9_960_000_000, "book")
        charges.replace(session, [day], [charged])
    put_in_force(opened, budget=BudgetPolicy(monthly_usd=Decimal(20)))
    said = reelkeeper("status").stdout
    assert as_read(said, only="$") == snapshot("""\
today $9.96 ╸ 99% of $10
this month $9.96 ╸ 49% of $20
saved so far $0.00 at list price\
""")


def test_items_left_to_later_runs_are_counted_once_and_by_action(opened: sa.Engine, reelkeeper: Run) -> None:
    plan = {"id": "p", "flow": "tier_storage", "state": "applied", "run_id": "r", "policy": {}, "policy_hash": ""}
    kept = {"beyond_compress_limit": 631, "left_to_another_day": 2, "left_to_next_run": 48, "too_young": 9}
    with transaction(opened, "test") as session:
        times = {"as_of": now(session), "created_at": now(session)}
        row = {**plan, **times, "population": 700, "population_bytes": 700, "kept": kept}
        session.execute(sa.insert(plans).values(row))
    said = reelkeeper("status").stdout
    assert as_read(said, only="tier_storage 633") == snapshot("to compress later, tier_storage 633")
    assert as_read(said, only="tier_storage 48") == snapshot("to retire later, tier_storage 48")


@pytest.mark.usefixtures("opened")
def test_the_status_fits_a_narrow_terminal(reelkeeper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from reelkeeper.cli import screen  # noqa: PLC0415  its console, which is one for all

    monkeypatch.setattr(screen.out, "_width", 60)
    assert max(map(len, reelkeeper("status").stdout.splitlines())) <= 60
