"""A store moves whole to another database, in one place at work at a time, whatever is killed meanwhile."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import Frozen, IntegrityDoubt, Refused
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.freeze import freeze, require_permission, thaw
from reelkeeper.operations.videos.hold import hold, place, release
from reelkeeper.store.core import move as moving
from reelkeeper.store.core.audit import MOVED, verify
from reelkeeper.store.core.deployment import identity
from reelkeeper.store.core.engine import open_engine, reading, schema_of, transaction
from reelkeeper.store.core.epochs import HOME, marks
from reelkeeper.store.core.epochs import home as home_of
from reelkeeper.store.core.move import move
from reelkeeper.store.core.schema import deployment, upgrade_at
from reelkeeper.store.tables import blobs, users
from reelkeeper.store.videos.holds import HoldTerms
from tests.children import FORKED
from tests.full_store import contents, fill

OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}
STEPS = [
    *(f"move.{step}.{when}_commit" for step in ("arrive", "check", "mark", "begin") for when in ("before", "after")),
    *(f"move.table.{when}_commit@{nth}" for when in ("before", "after") for nth in (1, 36)),
]


def bring(engine: sa.Engine, url: str) -> dict[str, int]:
    return move(engine, url, by="test", tell=lambda *_: None)


def bring_and_die(source: str, url: str, spec: str) -> None:
    from reelkeeper import failpoints  # noqa: PLC0415  in the child

    failpoints.arm(spec)
    bring(open_engine(source), url)


def is_at_work(engine: sa.Engine) -> bool:
    with reading(engine) as session:
        return deployment(session).frozen_at is None


def without_marks(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    return {name: rows for name, rows in found.items() if name != "controls"}


@pytest.fixture
def there(engine: sa.Engine, empty_url: Callable[[str], str]) -> str:
    """An empty database of the other kind."""
    return empty_url(OTHER[engine.dialect.name])


def test_a_store_is_not_moved_onto_itself_however_its_address_is_spelt(engine: sa.Engine) -> None:
    same = engine.url.update_query_dict(
        {"timeout": "1"} if engine.dialect.name == "sqlite" else {"connect_timeout": "9"}
    )
    with pytest.raises(Refused):
        bring(engine, same.render_as_string(hide_password=False))
    assert is_at_work(engine)


def test_all_rows_arrive_and_work_goes_on_there_alone(engine: sa.Engine, there: str) -> None:
    fill(engine)
    before = contents(engine)
    rows = bring(engine, there)
    assert (rows["users"], rows["jobs"], rows["audit_events"]) == (2, 2, 2)
    moved = open_engine(there)
    assert without_marks(contents(moved)) == without_marks(before)
    assert (is_at_work(engine), is_at_work(moved)) == (False, True)
    with transaction(moved, "test") as session, reading(engine) as old:
        assert identity(session) == identity(old)
        assert verify(session) == verify(old) == 2
        assert marks(session) == {HOME: home_of(session)}
        session.execute(sa.insert(blobs).values(generation=1, key="next", state="pending", size_bytes=1))
        assert session.scalar(sa.select(blobs.c.id).where(blobs.c.key == "next")) == 42
    moved.dispose()


def test_nothing_thaws_a_store_that_was_moved_and_not_even_a_takedown_changes_it(engine: sa.Engine, there: str) -> None:
    bring(engine, there)
    with pytest.raises(Frozen):
        thaw(engine, by="test")
    with pytest.raises(Frozen), transaction(engine, "test") as session:
        require_permission(session, despite_freeze=True)
    assert not is_at_work(engine)
    with pytest.raises(Refused, match=re.escape(str(sa.make_url(there).database))):
        bring(engine, there)


HELD = HoldTerms("video", "v", "a lawsuit", "ada", is_legal=True)
DECISIONS: dict[str, Callable[[sa.Engine], object]] = {
    "hold": lambda engine: hold(engine, HELD),
    "release": lambda engine: release(engine, "kept", author="ada"),
    "freeze": lambda engine: freeze(engine, by="ada", reason="an incident"),
    "revoke": lambda engine: tokens.revoke(engine, tokens.listed(engine)[0].id, author="ada"),
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_no_decision_is_confirmed_by_a_store_that_was_moved(engine: sa.Engine, there: str, decision: str) -> None:
    fill(engine)
    with transaction(engine, "test") as session:
        place(session, HELD, "kept")
    tokens.create(engine, "phone", [Scope.JOBS], author="ada")
    bring(engine, there)
    before = contents(engine)
    with pytest.raises(Frozen):
        DECISIONS[decision](engine)
    assert contents(engine) == before
    moved = open_engine(there)
    DECISIONS[decision](moved)
    moved.dispose()


def test_and_back(engine: sa.Engine, there: str, empty_url: Callable[[str], str]) -> None:
    fill(engine)
    bring(engine, there)
    moved, back = open_engine(there), empty_url(engine.dialect.name)
    bring(moved, back)
    returned = open_engine(back)
    assert without_marks(contents(returned)) == without_marks(contents(engine))
    assert (is_at_work(moved), is_at_work(returned)) == (False, True)
    for opened in (moved, returned):
        opened.dispose()


def test_a_store_in_use_is_not_moved(engine: sa.Engine, there: str) -> None:
    other = open_engine(engine.url.render_as_string(hide_password=False))
    with other.connect() as connection:
        connection.execute(sa.select(users))
        with pytest.raises(Refused):
            bring(engine, there)
    other.dispose()
    assert is_at_work(engine)
    assert bring(engine, there)


def test_changes_that_were_stopped_do_not_go_on_elsewhere(engine: sa.Engine, there: str) -> None:
    freeze(engine, by="test", reason="an incident")
    with pytest.raises(Frozen):
        bring(engine, there)
    with reading(engine) as session:
        assert deployment(session).frozen_reason == "an incident"


def test_nor_do_those_that_are_stopped_while_the_move_begins(
    engine: sa.Engine, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old store would be stopped by a person, who can let it go on beside the new one."""

    def upgrade_meanwhile(url: str) -> list[str]:
        freeze(engine, by="test", reason="an incident")
        return upgrade_at(url)

    monkeypatch.setattr(moving, "upgrade_at", upgrade_meanwhile)
    with pytest.raises(Frozen):
        bring(engine, there)
    with reading(engine) as session:
        assert deployment(session).frozen_reason == "an incident"


def test_another_store_is_never_overwritten(engine: sa.Engine, there: str) -> None:
    other = open_engine(there)
    upgrade_at(there)
    fill(other)
    before = contents(other)
    with pytest.raises(Refused):
        bring(engine, there)
    assert contents(other) == before
    assert is_at_work(engine)
    assert is_at_work(other)
    other.dispose()


def test_another_store_of_an_older_version_is_not_upgraded_on_the_way_to_a_refusal(
    engine: sa.Engine, there: str
) -> None:
    other = open_engine(there)
    upgrade_at(there)
    fill(other)
    with transaction(other, "test") as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '0027'"))
    with pytest.raises(Refused):
        bring(engine, there)
    with reading(other) as session:
        assert schema_of(session) == ["0027"]
    other.dispose()


def test_a_row_that_changed_on_the_way_ends_the_move(
    engine: sa.Engine, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    whole = moving._fill

    def changed(old: Session, new: Session, table: sa.Table) -> int:
        copied = whole(old, new, table)
        if table is users:
            new.execute(sa.update(users).where(users.c.id == "bob").values(tier="pro"))
        return copied

    monkeypatch.setattr(moving, "_fill", changed)
    with pytest.raises(IntegrityDoubt):
        bring(engine, there)
    assert is_at_work(engine)
    target = open_engine(there)
    assert not is_at_work(target)
    target.dispose()


@pytest.mark.long("a child for each step")
@pytest.mark.parametrize("step", STEPS)
def test_a_move_killed_at_any_step_is_ended_by_the_next(engine: sa.Engine, there: str, step: str) -> None:
    fill(engine)
    before, url = contents(engine), engine.url.render_as_string(hide_password=False)
    engine.dispose()
    point, _, nth = step.partition("@")
    child = FORKED.Process(target=bring_and_die, args=(url, there, f"{point}=kill{'@' + nth if nth else ''}"))
    child.start()
    child.join()
    assert child.exitcode == -9
    target = open_engine(there)
    assert not (is_at_work(engine) and is_at_work(target) and deployment_of(engine) == deployment_of(target))
    engine.dispose()
    target.dispose()
    if step != "move.begin.after_commit":
        bring(engine, there)
    assert without_marks(contents(target)) == without_marks(before)
    assert (is_at_work(engine), is_at_work(target)) == (False, True)
    with reading(engine) as session:
        assert deployment(session).frozen_by == MOVED
    target.dispose()


def deployment_of(engine: sa.Engine) -> str:
    with reading(engine) as session:
        return identity(session)
