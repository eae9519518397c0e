"""Which flows are awaited: the deployed ones, and all where nobody has looked."""

import pytest
import sqlalchemy as sa

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.health.status import awaited, flow_states, gather
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.alerts.webhooks import disabled
from reelkeeper.rules.lifecycle.savings import RULE as LEVER
from reelkeeper.rules.spend.limits import RULE as LIMIT
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import deployment as row

STORING = {"sync_catalog", "tier_storage", "expire_videos", "purge_retired"}
MAKING = {"dispatch_jobs", "tune_concurrency", "monitor_performance"}


@pytest.fixture
def old(sqlite_engine: sa.Engine) -> sa.Engine:
    """A store in which no flow has ever succeeded, for a month."""
    with transaction(sqlite_engine, "test") as session:
        session.execute(sa.update(row).values(created_at=Clock(-30 * 86_400)))
    return sqlite_engine


def deploy(engine: sa.Engine, flows: set[str]) -> None:
    with transaction(engine, "test") as session:
        deployment.set_deployed(session, flows)


def test_where_nobody_has_looked_every_flow_is_awaited(old: sa.Engine) -> None:
    assert gather(old).overdue == tuple(sorted(CADENCES))
    assert (gather(old).parts.stores, gather(old).parts.makes) == (True, True)


@pytest.mark.parametrize(("flows", "halves"), [(STORING, (True, False)), (MAKING, (False, True))])
def test_a_team_awaits_only_what_it_has_deployed(old: sa.Engine, flows: set[str], halves: tuple[bool, bool]) -> None:
    deploy(old, flows)
    found = gather(old)
    assert (set(found.overdue), (found.parts.stores, found.parts.makes)) == (flows, halves)
    deploy(old, {*CADENCES})
    assert set(gather(old).overdue) == set(CADENCES)


def test_the_watchdog_names_no_flow_that_is_not_deployed(old: sa.Engine) -> None:
    deploy(old, STORING)
    with reading(old) as session:
        states = flow_states(session, tuple(CADENCES))
        assert awaited(session).flows == STORING
    assert {state.flow for state in states} == STORING


def test_every_firing_alert_and_lever_is_counted_the_worst_first(engine: sa.Engine) -> None:
    a_disabled = disabled("0" * 12, "it is gone")
    observe(engine, [a_disabled], rules=(), run_id="test")
    over = [
        Finding(LIMIT, f"user:{user}", Severity.WARNING, "", "", period="2999-11", level="80") for user in range(60)
    ]
    ways = [Finding(LEVER, f"lever {way}", Severity.NOTICE, "", "", "", way * 10**6) for way in range(60)]
    observe(engine, [*over, *ways], rules=(), run_id="test")
    found = gather(engine)
    assert len(found.alerts) == 61
    assert found.alerts[0].scope == a_disabled.scope
    assert [lever.impact_microusd for lever in found.levers] == [way.impact_microusd for way in reversed(ways)]
