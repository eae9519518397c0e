"""Tokens: shown once, stored as a hash, invalid when revoked or expired."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import InputRefused, NotFound
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import api_tokens
from tests.marks import marked


def test_one_is_known_by_its_text_and_the_store_has_only_its_hash(engine: sa.Engine) -> None:
    line, text = tokens.create(engine, "front", [Scope.JOBS, Scope.VIDEOS], author="ann")
    caller = tokens.authenticate(engine, text)
    assert caller
    assert (caller.token_id, caller.name, caller.scopes) == (line.id, "front", frozenset({"jobs", "videos"}))
    with reading(engine) as session:
        stored = session.execute(sa.select(api_tokens)).one()
        told = list(audit.events(session))
    assert text not in repr((stored, told))
    assert [record.event.event for record in told] == ["token_create"]
    assert tokens.listed(engine)[0].last_used_at


@pytest.mark.parametrize(("seconds", "is_stale"), [(299, False), (301, True)])
def test_a_use_is_recorded_once_in_five_minutes(sqlite_engine: sa.Engine, seconds: int, is_stale: bool) -> None:
    _, text = tokens.create(sqlite_engine, "front", [Scope.JOBS], author="ann")
    with transaction(sqlite_engine, "test") as session:
        session.execute(sa.update(api_tokens).values(last_used_at=Clock(-seconds)))
    assert tokens.authenticate(sqlite_engine, text)
    with reading(sqlite_engine) as session:
        age = now(session) - session.execute(sa.select(api_tokens.c.last_used_at)).scalar_one()
    assert (age < timedelta(seconds=100)) == is_stale


def test_one_that_is_revoked_or_over_or_mistyped_is_nobodys(engine: sa.Engine) -> None:
    line, text = tokens.create(engine, "front", [Scope.JOBS], author="ann")
    tomorrow = datetime.now(UTC) + timedelta(1)
    old, over = tokens.create(engine, "old", [Scope.JOBS], author="ann", expires_at=tomorrow)
    with transaction(engine, "test") as session:
        passed = sa.update(api_tokens).where(api_tokens.c.id == old.id)
        session.execute(passed.values(expires_at=tomorrow - timedelta(2)))
    for author in ("ann", "bob"):
        tokens.revoke(engine, line.id, author=author)
    with reading(engine) as session:
        assert [told.event.run_id for told in audit.events(session, event="token_revoke")] == ["ann"]
    wrong = (text, over, text[:-1], text + "x", "", "rk_" + "é" * 43, "rk_" + "A" * 43)
    assert [item for item in wrong if tokens.authenticate(engine, item)] == []


def test_one_without_a_name_or_a_scope_is_refused(engine: sa.Engine) -> None:
    for name, scopes in (("", [Scope.JOBS]), ("a\nb", [Scope.JOBS]), ("front", [])):
        with pytest.raises(InputRefused):
            tokens.create(engine, name, scopes, author="ann")
    with pytest.raises(InputRefused) as refused:  # a mistyped year gives out a token that never works
        tokens.create(engine, "front", [Scope.JOBS], author="ann", expires_at=datetime.now(UTC) - timedelta(1))
    assert marked(refused.value) == snapshot("a token until DAY TIME UTC would have expired; no token was made")
    assert tokens.listed(engine) == []
    with pytest.raises(NotFound):
        tokens.revoke(engine, "none", author="ann")
