"""All rows of a user: a rename moves them, an erasure deletes or empties them, and those of others stay as they are."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from reelkeeper.store.billing import rename_rows
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.removals import erase_rows, erasures
from reelkeeper.store.removals.personal_data import FATES, NOTES, Fate, searched
from reelkeeper.store.tables import cache_entries, jobs, leases, operations
from tests.operations.books import make_user
from tests.store.two_users import AT, Row, read_rows

FIGURES: Final = (
    *("quantity", "consumed_quantity", "list_nanousd", "billed_nanousd", "balance_microusd"),
    *("microusd", "refusals", "jobs", "milliseconds", "used_bytes", "reserved_bytes"),
)
KEYS: Final = {"alerts": ["rule", "scope", "period", "level"]}


def moved(row: Row, after: str) -> Row:
    """Return a row with each id of the user ann replaced, where a column has nothing else."""
    forms = {form + "ann": form + after for form in ("", "user:", "user/", "held/")}
    return {name: forms.get(value, value) if isinstance(value, str) else value for name, value in row.items()}


def joined(table: str, rows: Iterable[Row]) -> list[Row]:
    """Join rows with one key: figures are added, the earlier time counts, and all else is as in the first."""
    keys, found = [key.name for key in SQLModel.metadata.tables[table].primary_key], dict[tuple[Any, ...], Row]()
    for row in rows:
        first = found.setdefault(tuple(row[name] for name in KEYS.get(table, keys)), row)
        if first is not row:
            more = {name: first[name] + row[name] for name in FIGURES if name in row}
            first |= more | ({"created_at": min(first["created_at"], row["created_at"])} if table == "users" else {})
    return sorted(found.values(), key=repr)


def test_a_rename_moves_every_row_of_the_user_and_none_of_another(filled_engine: sa.Engine) -> None:
    before = read_rows(filled_engine)
    with transaction(filled_engine, "test") as session:
        counted = rename_rows.count(session, "ann")
        rename_rows.move(session, "ann", "anna")
    expected = {name: [moved(row, "anna") for row in rows] for name, rows in before.items()}
    touched = {name: sum(row not in rows for row in expected[name]) for name, rows in before.items()}
    assert counted == {name: count for name, count in touched.items() if count and name not in {"users", "accounts"}}
    expected["former_ids"].append({"id": "ann", "user_id": "anna"})
    assert read_rows(filled_engine) == {name: sorted(rows, key=repr) for name, rows in expected.items()}


def test_two_users_who_become_one_have_the_rows_of_both_and_the_sums_of_their_figures(filled_engine: sa.Engine) -> None:
    before = read_rows(filled_engine)
    with transaction(filled_engine, "test") as session:
        rename_rows.move(session, "ann", "bob")
    expected = {
        name: [moved(row, "bob") for row in sorted(rows, key=lambda row: "ann" in repr(row))]
        for name, rows in before.items()
    }
    expected["former_ids"].append({"id": "ann", "user_id": "bob"})
    assert read_rows(filled_engine) == {name: joined(name, rows) for name, rows in expected.items()}


@pytest.mark.parametrize(
    ("lease", "prevents"),
    [
        ("flow/tier_storage", True),
        ("video/videos of ann", True),
        ("video/videos of bob", True),
        ("video/of another", False),
        ("webhook/1", False),
        ("flow/deliver_alerts", False),
        ("flow/dispatch_jobs", False),
        ("flow/follow_bucket", False),
    ],
)
def test_a_rename_waits_for_runs_that_may_change_rows_of_either_user(
    filled_engine: sa.Engine, lease: str, *, prevents: bool
) -> None:
    with transaction(filled_engine, "test") as session:
        ended, at_work = sa.update(operations).values(state="done"), jobs.c.user_id == "bob"
        session.execute(ended.where(operations.c.video_id == "videos of ann"))
        assert rename_rows.why_not(session, "ann", "anna") is None
        assert rename_rows.why_not(session, "ann", "bob")  # by work on a video of the other
        session.execute(ended)
        session.execute(sa.update(jobs).where(at_work).values(state="running"))
        assert rename_rows.why_not(session, "ann", "anna") is None
        assert rename_rows.why_not(session, "ann", "bob")  # by a job at work
        session.execute(sa.update(jobs).values(state="queued"))
        assert rename_rows.why_not(session, "ann", "bob") is None
        held = {"name": lease, "holder": "run", "token": 1, "expires_at": Clock(60)}
        session.execute(sa.delete(leases).where(leases.c.name == lease))
        session.execute(sa.insert(leases).values(held))
        assert (rename_rows.why_not(session, "ann", "bob") is not None) == prevents


def test_two_users_with_a_job_of_one_idempotency_key_do_not_become_one(filled_engine: sa.Engine) -> None:
    with transaction(filled_engine, "test") as session:
        session.execute(sa.update(operations).values(state="done"))
        session.execute(sa.update(jobs).values(client_key="alike"))
        assert rename_rows.why_not(session, "ann", "bob")
        assert rename_rows.why_not(session, "ann", "anna") is None


def test_keys_of_the_cache_move_where_the_new_one_is_free(filled_engine: sa.Engine) -> None:
    keys = sa.union(sa.select(jobs.c.cache_key), sa.select(cache_entries.c.key))
    with transaction(filled_engine, "test") as session:
        before = {*session.scalars(keys)}
        moves = {"cache_key of ann": "cache_key of bob", "key of ann": "key of bob"}
        rename_rows.move_cache_keys(session, moves)
        assert {*session.scalars(keys)} == before
        rename_rows.move_cache_keys(session, {old: f"new {old}" for old in moves})
        assert {*session.scalars(keys)} == before - moves.keys() | {f"new {old}" for old in moves}


def cleaned(value: Any, pseudonym: str) -> Any:  # noqa: ANN401  any JSON value
    """Replace the user's name in all texts, as an erasure is asked to."""
    if isinstance(value, dict):
        return {name: cleaned(one, pseudonym) for name, one in value.items()}
    return value.replace("ann", pseudonym) if isinstance(value, str) else value


def left(table: str, row: Row, pseudonym: str) -> Row:
    """Return what an erasure leaves of a row: the rest is emptied, and an event is not sent any more."""
    fates = FATES[table]
    assert not isinstance(fates, Fate)
    if row.get("endpoint_id"):
        payload = {"type": row["payload"]["type"], "data": {}}
        row = row | {"state": "withdrawn", "last_error": None, "subject": None, "url": None, "payload": payload}
    of_video = {name: value.replace("videos of ann", "ann") for name, value in row.items() if isinstance(value, str)}
    changed: dict[Fate, Callable[[str], Any]] = {
        Fate.KEPT: row.get,
        Fate.RENAMED: lambda name: cleaned(of_video.get(name, "ann"), pseudonym),
        Fate.SEARCHED: lambda name: cleaned(row[name], pseudonym),
    }
    return {name: changed[fate](name) for name, fate in fates.items() if fate in changed}


def test_an_erasure_does_to_every_row_of_the_user_what_is_declared_and_nothing_to_anothers(
    filled_engine: sa.Engine,
) -> None:
    with transaction(filled_engine, "test") as session:
        kept = {"key": "3", "user_id": "ann", "video_id": "videos of bob", "cost_microusd": 7, "hits": 0}
        session.execute(sa.insert(cache_entries).values(kept | {"created_at": AT}))
        erasing = erasures.begin(session, "ann")
    assert erasing
    before, name = read_rows(filled_engine), erasing.pseudonym
    with transaction(filled_engine, "test") as session:
        clean = partial(cleaned, pseudonym=name)
        counted = erase_rows.erase(session, erasing, clean, ["ann"], lambda said: "ann" in repr(said))
    after = read_rows(filled_engine)
    goes = {table for table in before if isinstance(FATES[table], Fate)} | {"leases"}
    for table, rows in before.items():
        mine = [row for row in rows if "ann" in repr(row)]
        now = [row for row in after[table] if row not in rows or row in mine]
        assert len(after[table]) - len(now) == len(rows) - len(mine), table
        if table in goes:
            assert (now, counted[table]) == ([], len(mine)), table
            continue
        expected = [left(table, row, name) for row in mine]
        assert [{column: row[column] for column in expected[0]} for row in now] == expected, table
        rest = [value for row in now for column, value in row.items() if column not in expected[0]]
        assert "ann" not in repr(rest), table
        assert name not in repr(rest), table
    assert counted.keys() == goes | {"users"}
    assert after["transfers"][0]["detail"] == {"width": 64}
    assert after["jobs"][0]["request"] == {"model": "model", "prompt": "erased", "width": 64}


def test_an_erasure_replaces_the_name_in_texts_of_others(filled_engine: sa.Engine) -> None:
    texts = [
        (table, names) for table, names in (*NOTES.items(), *searched().items()) if table in read_rows(filled_engine)
    ]
    told = [(table, name) for table, names in texts for name in names if table not in {"outbox", "transfers"}]
    with transaction(filled_engine, "test") as session:
        for table, name in told:
            column = SQLModel.metadata.tables[table].c[name]
            more = {"text": "with ann"} if isinstance(column.type, sa.JSON) else column.concat(" with ann")
            session.execute(sa.update(column.table).values({column: more}))
        erasing = erasures.begin(session, "ann")
        assert erasing
        erase_rows.erase(session, erasing, partial(cleaned, pseudonym=erasing.pseudonym), ["ann"], bool)
    after = read_rows(filled_engine)
    for table, name in told:
        assert f"with {erasing.pseudonym}" in repr([row[name] for row in after[table] if "bob" in repr(row)]), table


def test_of_a_user_without_rows_only_the_user_is_erased(sqlite_engine: sa.Engine) -> None:
    make_user(sqlite_engine, "ann")
    with transaction(sqlite_engine, "test") as session:
        erasing = erasures.begin(session, "ann")
        assert erasing
        assert erase_rows.erase(session, erasing, lambda value: value, ["ann"], bool) == {"users": 1}
        assert (erasures.find(session, erasing.pseudonym), erasures.unfinished(session)) == (None, [])
