"""The audit record: append-only, and every change to it is detected."""

import random
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.store.core import audit
from reelkeeper.store.core.audit import Event, append, events, verify
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import audit_events, deployment
from tests.marks import marked


def some(count: int, run_id: str = "run") -> list[Event]:
    return [
        Event(
            ("retire", "purge")[n % 2], run_id, f"video{n}", n, f"user{n % 3}", {"why": "0 views", "bytes": n, "p": 0.1}
        )
        for n in range(count)
    ]


def record(engine: sa.Engine, batch: list[Event]) -> None:
    with transaction(engine, "test.audit") as session:
        append(session, batch)


def test_appended_events_are_read_back_newest_first(engine: sa.Engine) -> None:
    record(engine, some(2))
    record(engine, [Event("freeze", "ada", detail={"reason": "naïve \u2028 text"})])
    record(engine, [])
    with reading(engine) as session:
        found = list(events(session))
        assert [entry.id for entry in found] == [3, 2, 1]
        assert [entry.event for entry in found[1:]] == some(2)[::-1]
        assert found[0].event.detail == {"reason": "naïve \u2028 text"}
        assert abs(found[0].at - now(session)) < timedelta(seconds=10)
        assert verify(session) == 3


def test_events_are_found_by_run_video_user_time_and_number(engine: sa.Engine) -> None:
    record(engine, some(6, "first"))
    record(engine, some(4, "second"))
    with reading(engine) as session:
        assert len(list(events(session, run_id="first"))) == 6
        assert [entry.id for entry in events(session, video_id="video3")] == [10, 4]
        assert len(list(events(session, user_id="user0", event="retire"))) == 2
        assert len(list(events(session, since=now(session) - timedelta(minutes=1), limit=7))) == 7
        assert list(events(session, since=now(session) + timedelta(minutes=1))) == []


@pytest.mark.parametrize("verb", ["UPDATE audit_events SET event = 'x'", "DELETE FROM audit_events"])
def test_the_database_refuses_to_change_the_record(engine: sa.Engine, verb: str) -> None:
    record(engine, some(1))

    def change() -> None:
        with transaction(engine, "test.change") as session:
            session.execute(sa.text(verb))

    with pytest.raises(sa.exc.DatabaseError, match="append-only"):
        change()


@pytest.mark.long("10,000 events")
def test_ten_thousand_events_are_written_at_once(engine: sa.Engine) -> None:
    record(engine, some(10_000))
    with reading(engine) as session:
        assert verify(session) == 10_000


def test_writers_at_the_same_time_make_one_chain(engine: sa.Engine) -> None:
    def write(name: str) -> None:
        for _ in range(10):
            record(engine, some(3, name))

    writers = [threading.Thread(target=write, args=(f"run{n}",)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with reading(engine) as session:
        assert verify(session) == 120


def drop_triggers(session: sa.orm.Session) -> None:
    if session.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            session.execute(sa.text(f"DROP TRIGGER audit_events_no_{verb}"))
    else:
        for name in ("append_only", "only_erased"):
            session.execute(sa.text(f"DROP TRIGGER audit_events_{name} ON audit_events"))


def tamper(session: sa.orm.Session, rng: random.Random, length: int) -> str:
    table, victim = audit_events, rng.randrange(1, length + 1)
    chosen = rng.choice(["column", "column", "column", "delete", "swap", "tail", "extra"])
    if chosen == "column":
        column = rng.choice([column.name for column in table.c])
        session.execute(sa.update(table).where(table.c.id == victim).values({column: changed(session, column, victim)}))
        return f"{column} of {victim}"
    if chosen == "delete":
        session.execute(sa.delete(table).where(table.c.id == victim))
    if chosen == "swap":
        other = 1 + victim % length
        for old, new in ((victim, 0), (other, victim), (0, other)):
            session.execute(sa.update(table).where(table.c.id == old).values(id=new))
    if chosen == "tail":
        session.execute(sa.delete(table).where(table.c.id >= victim))
    if chosen == "extra":
        row = session.execute(sa.select(table).where(table.c.id == victim)).one()
        session.execute(sa.insert(table).values({**row._mapping, "id": length + 1}))
    return f"{chosen} {victim}"


def changed(session: sa.orm.Session, column: str, victim: int) -> object:
    value = session.execute(sa.select(audit_events.c[column]).where(audit_events.c.id == victim)).scalar_one()
    if column == "detail":
        return {**value, "bytes": value["bytes"] + 1}
    if column == "at":
        return value + timedelta(milliseconds=1)
    if column == "id":
        return value + 1_000
    return value + 1 if isinstance(value, int) else f"{value}x"


def doubted(session: sa.orm.Session) -> bool:
    try:
        verify(session)
    except IntegrityDoubt:
        return True
    return False


def test_a_hundred_ways_to_tamper_all_show(engine: sa.Engine) -> None:
    record(engine, some(20))
    rng = random.Random(2026)
    with transaction(engine, "test.tamper") as session:
        drop_triggers(session)
        unnoticed = []
        for _ in range(100):
            with session.begin_nested() as savepoint:
                what = tamper(session, rng, 20)
                if not doubted(session):
                    unnoticed.append(what)
                savepoint.rollback()
        assert unnoticed == []
        assert verify(session) == 20


def test_a_tail_cut_together_with_the_count_shows_by_the_head(engine: sa.Engine) -> None:
    record(engine, some(5))
    with transaction(engine, "test.tamper") as session:
        drop_triggers(session)
        session.execute(sa.delete(audit_events).where(audit_events.c.id == 5))
        session.execute(sa.update(deployment).values(audit_events=4))
        with pytest.raises(IntegrityDoubt, match=" 4 "):
            verify(session)
        session.rollback()


def test_an_event_that_is_rewritten_with_its_digest_shows_by_those_after_it(engine: sa.Engine) -> None:
    record(engine, some(5))
    with transaction(engine, "test.tamper") as session:
        drop_triggers(session)
        third = session.execute(sa.select(audit_events).where(audit_events.c.id == 3)).one()
        rewritten = Event("another", third.run_id, third.video_id, third.blob_id, third.user_id, third.detail)
        digest = audit._digest(third.previous, 3, third.at, rewritten, third.seal)
        for place, values in ((3, {"event": "another", "digest": digest}), (4, {"previous": digest})):
            session.execute(sa.update(audit_events).where(audit_events.c.id == place).values(values))
        with pytest.raises(IntegrityDoubt, match="audit event 4"):
            verify(session)
        session.rollback()


def erase(engine: sa.Engine, places: list[int], pseudonym: str = "erased-1") -> int:
    with transaction(engine, "test.erase") as session:
        return audit.erase(session, places, pseudonym, run_id="erase")


def test_erased_events_keep_their_figures_under_a_pseudonym_and_the_record_verifies(engine: sa.Engine) -> None:
    record(engine, some(6))
    assert erase(engine, [1, 4]) == 2
    assert erase(engine, [1, 4]) == 0, "what is erased already is left alone"
    with reading(engine) as session:
        assert verify(session) == 7
        statement, *rest = events(session)
        assert (statement.event.user_id, statement.event.detail) == ("erased-1", {"events": [1, 4]})
        first, fourth = rest[5].event, rest[2].event
        assert fourth == Event("purge", "run", None, 3, "erased-1", {"bytes": 3, "p": 0.1})
        assert first == Event("retire", "run", None, 0, "erased-1", {"bytes": 0, "p": 0.1})
        assert rest[4].event == some(6)[1], "the events of others are as they were"
        left = session.execute(sa.select(audit_events).where(audit_events.c.id == 1)).one()
    assert "user0" not in str(left)
    assert "video0" not in str(left)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"user_id": "erased-2"}, snapshot("audit event 1 was not erased, although event 4 says so")),
        ({"video_id": "another"}, snapshot("audit event 1 was erased, but contains more than figures")),
        (
            {"detail": {"bytes": 0, "p": 0.1, "why": "0 views"}},
            snapshot("audit event 1 was erased, but contains more than figures"),
        ),
        (
            {"detail": {"bytes": 1, "p": 0.1}},
            snapshot("audit event 1 does not match its hash: it, or one before it, was changed"),
        ),
    ],
)
def test_the_rest_of_an_erased_event_cannot_be_changed(
    engine: sa.Engine, values: dict[str, object], complaint: str
) -> None:
    record(engine, some(3))
    erase(engine, [1])
    with transaction(engine, "test.tamper") as session:
        drop_triggers(session)
        session.execute(sa.update(audit_events).where(audit_events.c.id == 1).values(values))
        with pytest.raises(IntegrityDoubt) as doubt:
            verify(session)
        assert str(doubt.value) == complaint
        session.rollback()


def test_an_event_that_says_nothing_any_more_must_have_been_erased(engine: sa.Engine) -> None:
    record(engine, some(3))
    emptied = {"salt": None, "video_id": None, "detail": {"bytes": 1, "p": 0.1}}
    with transaction(engine, "test.tamper") as session:
        session.execute(sa.update(audit_events).where(audit_events.c.id == 2).values(emptied))
    with reading(engine) as session, pytest.raises(IntegrityDoubt) as refused:
        verify(session)
    assert marked(refused.value) == snapshot("audit event 2 has lost its details, and no event records their erasure")


@pytest.mark.parametrize(
    "change",
    [
        {"detail": {}},
        {"salt": "x"},
        {"salt": None, "event": "x"},
        {"salt": None, "blob_id": 7},
        {"salt": None, "seal": "x"},
        {"salt": None, "digest": "x"},
    ],
)
def test_the_database_allows_only_erasing_an_event(engine: sa.Engine, change: dict[str, object]) -> None:
    record(engine, some(1))

    def attempt() -> None:
        with transaction(engine, "test.change") as session:
            session.execute(sa.update(audit_events).values(change))

    with pytest.raises(sa.exc.DatabaseError, match="append-only"):
        attempt()
