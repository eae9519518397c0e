"""`settle_accounts`: a dry run changes nothing; a run releases overdue holds, and freezes on a mismatch."""

import re

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.settle_accounts import settle_accounts
from reelkeeper.errors import Frozen, IntegrityDoubt
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core.freeze import freeze, thaw, why_frozen
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import alerts, credit_holds, outbox, reservations, storage_accounts
from tests.flows.scenes import Scene
from tests.operations.books import DOLLAR, balances, storage
from tests.reading import DRAWN, as_read


@pytest.fixture
def overdue(scene: Scene) -> Scene:
    """Ann has two videos, a hold and a reservation, which are overdue."""
    scene.video("v1", age_days=1)
    with transaction(scene.engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "gift", run_id="test")
        ledger.hold(session, "ann", 300, "job", run_id="test", lasting_seconds=1)
        quota.reserve(session, "ann", 70, "upload", lasting_seconds=1)
        for table in (credit_holds, reservations):
            session.execute(sa.update(table).values(expires_at=Clock(-1)))
    return scene


def test_a_dry_run_only_looks(overdue: Scene) -> None:
    before = overdue.everything()
    report = settle_accounts()
    assert (report.overdue_holds, report.overdue_microusd) == (1, 300)
    assert (report.overdue_reservations, report.overdue_bytes, report.mismatches) == (1, 70, ())
    assert overdue.everything() == before
    assert balances(overdue.engine, "ann") == (DOLLAR - 300, 300)


@pytest.mark.long
def test_overdue_holds_and_reservations_are_released_once(overdue: Scene) -> None:
    assert settle_accounts(dry_run=False).overdue_holds == 1
    assert settle_accounts(dry_run=False).overdue_holds == 0
    assert balances(overdue.engine, "ann") == (DOLLAR, 0)
    assert storage(overdue.engine, "ann") == (overdue.world.clip.stat().st_size, 0)
    assert why_frozen(overdue.engine) is None


@pytest.mark.long
def test_a_mismatch_fails_the_run_freezes_everything_and_alerts_until_corrected(overdue: Scene) -> None:
    with transaction(overdue.engine, "test") as session:
        session.execute(sa.update(storage_accounts).values(used_bytes=storage_accounts.c.used_bytes + 1))
    with pytest.raises(IntegrityDoubt) as refused:
        settle_accounts(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
the accounts do not add up in 1 figure (used_bytes). Changes are frozen; run <run>. See
  `reelkeeper credits recount`, find what wrote past Reelkeeper, then `reelkeeper thaw`.\
""")
    assert as_read(why_frozen(overdue.engine), figure=re.compile(r"\d\d,\d{3}"), **DRAWN) == snapshot("""\
frozen since <at> by <run>: the accounts do not add up in 1 figure: used_bytes of ann is
  <figure>, counted <figure>. When the cause is resolved: reelkeeper thaw\
""")
    with pytest.raises(IntegrityDoubt) as refused:
        settle_accounts(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
the accounts do not add up in 1 figure (used_bytes). Changes are frozen; run <run>. See
  `reelkeeper credits recount`, find what wrote past Reelkeeper, then `reelkeeper thaw`.\
""")
    assert balances(overdue.engine, "ann") == (DOLLAR - 300, 300)  # nothing moves while the books are in doubt
    thaw(overdue.engine, by="eve")
    with transaction(overdue.engine, "test") as session:
        session.execute(sa.update(storage_accounts).values(used_bytes=storage_accounts.c.used_bytes - 1))
    settle_accounts(dry_run=False)
    assert balances(overdue.engine, "ann") == (DOLLAR, 0)
    with reading(overdue.engine) as session:
        assert session.execute(sa.select(alerts.c.rule, alerts.c.state)).all() == [("ledger_mismatch", "resolved")]
        assert session.execute(sa.select(outbox.c.kind).order_by(outbox.c.id)).scalars().all() == ["alert", "resolve"]


@pytest.mark.long
def test_frozen_for_another_reason_it_gives_nothing_back(overdue: Scene) -> None:
    freeze(overdue.engine, by="eve", reason="something is odd")
    with pytest.raises(Frozen, match="something is odd"):
        settle_accounts(dry_run=False)
    assert balances(overdue.engine, "ann") == (DOLLAR - 300, 300)


def test_a_dry_run_tells_of_a_mismatch_and_freezes_nothing(overdue: Scene) -> None:
    with transaction(overdue.engine, "test") as session:
        session.execute(sa.update(storage_accounts).values(used_bytes=1))
    assert [mismatch.what for mismatch in settle_accounts().mismatches] == ["used_bytes"]
    assert why_frozen(overdue.engine) is None
