"""Pruning of records: old rows without references are deleted; new, open and permanent ones stay."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reelkeeper.errors import Frozen
from reelkeeper.model import VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.core import prune_records as pruning
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.prune_records import forget, overdue
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease, current
from reelkeeper.store.core.prune_records import KINDS
from reelkeeper.store.tables import (
    alerts,
    blobs,
    daily_views,
    jobs,
    leases,
    notice_deliveries,
    notices,
    operations,
    outbox,
    performance_windows,
    plans,
    reservations,
    scans,
    uploads,
    users,
    verdicts,
    videos,
)
from tests.jobs import made, waiting

POLICY = RecordRetentionPolicy()
FIELDS = set(RecordRetentionPolicy.model_fields) - {"backups_days"}  # which are files, not rows
FOREVER = {
    "policy_versions",
    "blocked_bytes",
    "doubts",
    *("accounts", "api_tokens", "audit_events", "blobs", "cache_entries", "charges", "controls"),
    *("charge_days", "charge_months"),
    *(
        "credit_holds",
        "deployment",
        "entries",
        "epochs",
        "former_ids",
        "heartbeats",
        "holds",
        "input_images",
        "keeps",
        "key_owners",
        "orphans",
    ),
    *("spend_days", "storage_accounts", "transfers", "users", "videos", "view_days", "webhook_endpoints"),
}


def clean(engine: sa.Engine) -> datetime:
    """Empty what the examples fill; return the time."""
    with transaction(engine, "test") as session:
        emptied = (verdicts, plans, outbox, alerts, jobs, uploads, reservations, scans, performance_windows)
        for table in (*emptied, notice_deliveries, notices):
            session.execute(sa.delete(table))
        session.execute(sa.delete(leases))
        session.execute(sa.delete(daily_views))
        session.execute(sa.delete(videos))
        session.execute(sa.delete(users))
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        return now(session)


def put(engine: sa.Engine, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        with transaction(engine, "test") as session:
            session.execute(sa.insert(table), rows)


def ids(engine: sa.Engine, table: sa.Table) -> set[Any]:
    with reading(engine) as session:
        return set(session.execute(sa.select(next(iter(table.primary_key.columns)))).scalars())


def run(engine: sa.Engine, policy: RecordRetentionPolicy = POLICY) -> dict[str, int]:
    with LeaseManager(engine) as manager:
        (lease,) = manager.take(["flow/prune_cache"])
        return forget(engine, policy, lease=lease)


def plan(plan_id: str, at: datetime, **values: object) -> dict[str, Any]:
    return {
        "id": plan_id, "flow": "tier_storage", "state": "applied", "as_of": at, "created_at": at, "run_id": "r",
        "policy": {}, "policy_hash": "", "population": 1, "population_bytes": 1, "kept": {}, **values,
    }  # fmt: skip


def verdict(plan_id: str, blob_id: int, outcome: str | None) -> dict[str, Any]:
    about = {"generation": 1, "action": "compress", "rule": "r", "reason": "r", "size_bytes": 1}
    return {"plan_id": plan_id, "blob_id": blob_id, "outcome": outcome, **about}


def message(number: int, at: datetime, state: str) -> dict[str, Any]:
    return {"id": number, "kind": "note", "state": state, "payload": {}, "created_at": at, "due_at": at,
            "alert_ids": [], "attempts": 0}  # fmt: skip


def alert(number: int, at: datetime, state: str, message_id: int | None = None) -> dict[str, Any]:
    return {
        "id": str(number), "rule": "r", "scope": str(number), "period": "", "level": "", "state": state,
        "severity": "warning", "title": "t", "text": "", "suggestion": "", "figures": [], "run_id": "r",
        "first_at": at, "last_at": at, "is_told": True, "message_id": message_id,
        "resolved_at": at if state == "resolved" else None,
    }  # fmt: skip


def test_a_lease_of_a_video_goes_when_nothing_has_worked_on_it_for_days(engine: sa.Engine) -> None:
    at = clean(engine)
    old, recent = at - timedelta(days=91), at - timedelta(days=89)
    put(engine, videos, [{"id": name, "user_id": "ann", "state": "live"} for name in ("swapped", "purged", "over")])
    put(engine, blobs, [{"video_id": "purged", "key": "k", "size_bytes": 1, "state": "deleting", "stored_at": old}])
    names = {
        "video/over": old,
        "video/swapped": old,
        "video/purged": old,
        "video/new": recent,
        "flow/tier_storage": old,
    }
    put(engine, leases, [{"name": n, "holder": "w", "token": 3, "expires_at": until} for n, until in names.items()])
    with LeaseManager(engine) as manager:
        (lease,) = manager.take(["video/swapped"])
        work = {"id": "o", "kind": "swap", "video_id": "swapped", "generation": 1, "run_id": "r", "created_at": old}
        put(engine, operations, [work | {"lease_token": lease.token, "updated_at": old}])
    with transaction(engine, "test") as session:
        session.execute(sa.update(leases).where(leases.c.name == "video/swapped").values(expires_at=old))
    assert run(engine) == {"leases": 1}
    assert ids(engine, leases) == names.keys() - {"video/over"} | {"flow/prune_cache"}
    with LeaseManager(engine) as manager:  # taken anew, with an earlier token: it is nobody else's
        (again,) = manager.take(["video/over"])
        with reading(engine) as session:
            assert not current(session, Lease("video/over", "w", again.token))


def test_a_lease_that_a_run_takes_meanwhile_stays(postgresql_engine: sa.Engine) -> None:
    old = clean(postgresql_engine) - timedelta(days=91)
    put(postgresql_engine, leases, [{"name": "video/v", "holder": "w", "token": 3, "expires_at": old}])
    with ThreadPoolExecutor(1) as pool:
        with transaction(postgresql_engine, "test") as taker:
            taker.execute(sa.update(leases).where(leases.c.name == "video/v").values(expires_at=now(taker), token=4))
            pruned = pool.submit(run, postgresql_engine)
            wait([pruned], timeout=2)  # it must not wait for the taker
        assert pruned.result() == {}
    assert "video/v" in ids(postgresql_engine, leases)


def test_every_table_is_forgotten_by_a_rule_or_kept_for_good() -> None:
    assert {kind.table.name for kind in KINDS} | FOREVER == set(users.metadata.tables)
    assert not {kind.table.name for kind in KINDS} & FOREVER
    assert {kind.field for kind in KINDS} == FIELDS


AGED = {  # kinds that nothing refers to, with the column of their age
    "daily_views": "day",
    "usage_days": "day",
    "snoozes": "until",
    "performance_windows": "start_at",
    "crf_searches": "at",
    "forecasts": "as_of",
    "job_totals": "period",
}


@pytest.mark.parametrize("name", AGED)
def test_rows_that_only_age_go_once_they_are_older_than_their_days(name: str, engine: sa.Engine) -> None:
    (kind,) = [each for each in KINDS if each.table.name == name]
    days, at, column = getattr(POLICY, kind.field), clean(engine), kind.table.c[AGED[name]]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(videos).values(id="v", user_id="ann", state="live", generation=1))
    ages = {"kept": days - 1, "old": days + 40}  # totals are of months
    put(engine, kind.table, [filled(kind.table, n, AGED[name], at - timedelta(days=ages[n])) for n in ages])
    assert run(engine)[name] == 1
    with reading(engine) as session:
        (left,) = session.execute(sa.select(column)).scalars()
    assert str(left)[:7] == f"{at - timedelta(days=ages['kept']):%Y-%m}"


def filled(table: sa.Table, word: str, of_age: str, at: datetime) -> dict[str, Any]:
    """Make a row: `at` in the column of its age, and something in each other one that needs it."""
    by_type = {"VARCHAR": word, "DATETIME": at, "DATE": at.date(), "JSON": {}, "BOOLEAN": False}
    needed = [column for column in table.c if not column.nullable or column.name == of_age]
    row = {column.name: by_type.get(str(column.type), len(word)) for column in needed if column.default is None}
    ours = {"video_id": "v", "period": f"{at:%Y-%m}", "metric": "jobs", "source": "store"}
    return row | {name: value for name, value in ours.items() if name in table.c}


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_no_retention_can_be_shorter_than_a_rule_looks_back(field: str) -> None:
    for wrong in (0, -1, 3):
        with pytest.raises(ValidationError):
            RecordRetentionPolicy(**{field: wrong})
    assert getattr(RecordRetentionPolicy(**{field: None}), field) is None
    least = {"usage_days": 800, "jobs_days": 62}.get(field)  # what forecasts, and samples of usage, look back
    if least:
        with pytest.raises(ValidationError):
            RecordRetentionPolicy(**{field: least - 1})


AGES = st.integers(0, 1_200)  # days
ROWS = st.fixed_dictionaries(
    {
        "messages": st.lists(st.tuples(AGES, st.sampled_from(["waiting", "sent", "diverted"])), max_size=5),
        "alerts": st.lists(
            st.tuples(AGES, st.sampled_from(["firing", "acknowledged", "resolved"]), st.integers(0, 5)), max_size=4
        ),
        "plans": st.lists(
            st.tuples(
                AGES,
                st.sampled_from(["tier_storage", "purge_retired"]),
                st.sampled_from(["ready", "applied", "refused"]),
                st.lists(st.sampled_from([None, "purged", "failed", "retired"]), max_size=3),
                st.booleans(),
            ),
            max_size=6,
        ),
        "jobs": st.lists(
            st.tuples(AGES, st.sampled_from([JobState.SUCCEEDED, JobState.DEAD, JobState.QUEUED]), st.booleans()),
            max_size=6,
        ),
        "scans": st.lists(st.tuples(AGES, st.sampled_from(["good", None])), max_size=4),
        "windows": st.lists(AGES, max_size=4, unique=True),
    }
)


EACH_REASON_TO_STAY: dict[str, Any] = {  # in the order of the rules, each beside one that goes
    "messages": [(500, "sent"), (500, "sent"), (500, "waiting"), (10, "sent")],
    "alerts": [(500, "firing", 1), (500, "resolved", 2)],
    "plans": [
        (1, "tier_storage", "applied", [], False),
        (300, "tier_storage", "applied", ["purged", None], False),
        (300, "tier_storage", "applied", ["failed"], True),
        (300, "tier_storage", "refused", [None], False),
        (400, "purge_retired", "ready", [], False),
    ],
    "jobs": [
        (500, JobState.SUCCEEDED, False),
        (10, JobState.SUCCEEDED, True),
        (500, JobState.DEAD, False),
        (500, JobState.QUEUED, False),
    ],
    "scans": [(5, None), (40, "good"), (50, None)],
    "windows": [10, 500],
}


@pytest.mark.long
@example(rows=EACH_REASON_TO_STAY)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS)
def test_only_what_is_old_and_unreferenced_goes_and_all_of_it_in_the_end(
    sqlite_engine: sa.Engine, rows: dict[str, Any]
) -> None:
    _holds(sqlite_engine, rows)


@pytest.mark.long
@example(rows=EACH_REASON_TO_STAY)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS)
def test_the_same_on_postgresql(postgresql_engine: sa.Engine, rows: dict[str, Any]) -> None:
    _holds(postgresql_engine, rows)


def _holds(engine: sa.Engine, rows: dict[str, Any]) -> None:
    at = clean(engine)

    def ago(days: float) -> datetime:
        return at - timedelta(days=days, hours=1)

    put(engine, outbox, [message(n, ago(age), state) for n, (age, state) in enumerate(rows["messages"], 1)])
    put(engine, alerts, [alert(n, ago(age), state, which) for n, (age, state, which) in enumerate(rows["alerts"])])
    drawn = {f"p{n}": (age + n / 100, *rest) for n, (age, *rest) in enumerate(rows["plans"])}
    put(engine, plans, [plan(key, ago(age), flow=flow, state=state) for key, (age, flow, state, *_) in drawn.items()])
    put(engine, verdicts, [verdict(key, n, done) for key, item in drawn.items() for n, done in enumerate(item[3])])
    busy = (key for key, item in drawn.items() if item[4])
    held = [{"name": f"plan/{key}", "holder": "w", "token": 1, "expires_at": at} for key in busy]
    put(engine, leases, held)
    wanted = [
        (made if state != JobState.QUEUED else waiting)(f"j{n}", ago(age), state=state)
        for n, (age, state, _) in enumerate(rows["jobs"])
    ]
    for n, (_, _, follows) in enumerate(rows["jobs"]):
        wanted[n]["leader_id"] = f"j{n - 1}" if follows and n else None
    put(engine, jobs, wanted)
    put(engine, scans, [{"id": f"s{n}", "run_id": "r", "started_at": ago(age + n / 100), "outcome": good, "objects": 0,
                         "size_bytes": 0} for n, (age, good) in enumerate(rows["scans"])])  # fmt: skip
    put(engine, performance_windows, [{"start_at": ago(age), "tier": "", "model": "", "seconds": 900, "figures": {}}
                                      for age in rows["windows"]])  # fmt: skip

    for _ in range(len(rows["jobs"]) + 3):  # a leader goes after its followers, a plan after its verdicts
        run(engine)
    assert run(engine) == overdue(engine, POLICY) == {}

    told = {which for _, state, which in rows["alerts"] if state != "resolved"}
    assert ids(engine, outbox) == {
        n
        for n, (age, state) in enumerate(rows["messages"], 1)
        if state == "waiting" or age < 90 or n in told or n == len(rows["messages"])
    }
    assert ids(engine, alerts) == {
        str(n) for n, (age, state, _) in enumerate(rows["alerts"]) if state != "resolved" or age < 400
    }
    last = {min((item[0] for item in drawn.values() if item[1] == flow), default=-1) for flow in
            ("tier_storage", "purge_retired")}  # fmt: skip
    newest_applied = min((item[0] for item in drawn.values() if item[2] == "applied"), default=2_000)
    stay = {
        key
        for key, (age, _, _, outcomes, busy) in drawn.items()
        if age < 90 or age in last or busy or age <= newest_applied or "purged" in outcomes
    }
    assert ids(engine, plans) == stay
    with reading(engine) as session:
        purged = session.execute(
            sa.select(sa.func.count()).select_from(verdicts).where(verdicts.c.outcome == "purged")
        ).scalar_one()
        assert purged == sum(item[3].count("purged") for item in drawn.values())
    followed, stays = set[str](), set[str]()
    for n in reversed(range(len(wanted))):
        age, state, _ = rows["jobs"][n]
        if state == JobState.QUEUED or age < 90 or f"j{n}" in followed:
            stays.add(f"j{n}")
            followed.add(str(wanted[n]["leader_id"]))
    assert ids(engine, jobs) == stays
    newest_good = min((age + n / 100 for n, (age, good) in enumerate(rows["scans"]) if good), default=2_000)
    assert ids(engine, scans) == {
        f"s{n}" for n, (age, _) in enumerate(rows["scans"]) if age < 30 or age + n / 100 <= newest_good
    }
    assert len(ids(engine, performance_windows)) == sum(age < 400 for age in rows["windows"])


def test_the_number_of_a_forgotten_message_is_never_given_again(engine: sa.Engine) -> None:
    """A webhook's receiver drops a message whose number it knows; a notice counts as delivered by that number."""
    at = clean(engine)
    for _ in range(2):
        add(engine, at - timedelta(days=100), "sent")
    given = ids(engine, outbox)
    assert run(engine) == {"outbox": 1}
    add(engine, at, "waiting")
    assert max(ids(engine, outbox)) == max(given) + 1


def add(engine: sa.Engine, at: datetime, state: str) -> None:
    """Add a message, whose number the store gives."""
    row = message(0, at, state)
    del row["id"]
    put(engine, outbox, [row])


def test_records_are_kept_for_longer_than_there_is_a_calendar(engine: sa.Engine) -> None:
    at = clean(engine)
    put(engine, outbox, [message(n, at - timedelta(days=100), "sent") for n in (1, 2)])
    endless = RecordRetentionPolicy(jobs_days=1_000_000, scans_days=10**12)
    assert overdue(engine, endless) == {"outbox": 1}
    assert run(engine, endless) == {"outbox": 1}


def test_of_old_plans_the_last_that_was_applied_and_a_flows_last_stay(engine: sa.Engine) -> None:
    at = clean(engine)
    days = {
        "first": (900, "applied"),
        "applied": (800, "applied"),
        "refused": (700, "refused"),
        "drawn": (600, "ready"),
    }
    put(engine, plans, [plan(name, at - timedelta(days=age), state=state) for name, (age, state) in days.items()])
    assert run(engine) == {"plans": 1}
    assert ids(engine, plans) == {"applied", "refused", "drawn"}


def test_an_upload_and_its_reservation_go_together_once_they_are_settled(engine: sa.Engine) -> None:
    at = clean(engine)
    for name, state, days in (("old", "settled", 91), ("young", "settled", 89), ("open", "open", 500)):
        settled = None if state == "open" else at - timedelta(days=days)
        about = {"user_id": "ann", "state": state, "size_bytes": 1, "settled_at": settled}
        put(engine, reservations, [{"id": name, "created_at": at, "expires_at": at, **about}])
        put(engine, uploads, [{"id": f"u-{name}", "request_sha256": "", "video_id": "v", "video_created_at": at,
                               "reservation_id": name, "blob_id": 1, "url_until": at}])  # fmt: skip
    assert run(engine) == {"uploads": 1, "reservations": 1}
    assert ids(engine, uploads) == {"u-young", "u-open"}
    assert ids(engine, reservations) == {"young", "open"}


@pytest.mark.parametrize(
    ("given", "ended", "state", "stays"),
    [
        (500, None, VideoState.LIVE, True),  # in force, however old
        (500, 91, VideoState.LIVE, False),
        (500, 89, VideoState.LIVE, True),
        (500, None, VideoState.RETIRED, False),
        (89, None, VideoState.RETIRED, True),
    ],
)
def test_a_notice_goes_with_its_deliveries_once_it_is_over_and_old(
    engine: sa.Engine, given: int, ended: int | None, state: VideoState, *, stays: bool
) -> None:
    at = clean(engine)
    for number, (days, until, state_of_its_video) in enumerate([(given, ended, state), (500, None, "live")], 1):
        put(engine, videos, [{"id": f"v{number}", "user_id": "ann", "state": state_of_its_video, "generation": 1}])
        when = {"given_at": at - timedelta(days=days), "ended_at": until and at - timedelta(days=until)}
        about = {"tier": "free", "days": 14, "rule": "r", "run_id": "r", "expires_at": at, **when}
        put(engine, notices, [{"id": number, "video_id": f"v{number}", **about}])
        put(engine, notice_deliveries, [{"notice_id": number, "endpoint_id": "e", "message_id": number}])
    run(engine)
    assert ids(engine, notices) == ids(engine, notice_deliveries) == ({1, 2} if stays else {2})


def test_a_swap_is_remembered_for_as_long_as_it_can_be_taken_back(engine: sa.Engine) -> None:
    at = clean(engine)
    long_ago = at - timedelta(days=500)
    put(engine, videos, [{"id": "v", "user_id": "ann", "state": "live", "generation": 1}])
    for number, state in enumerate(("gone", "deleting", "retired"), 1):
        put(engine, blobs, [{"id": number, "key": f"k{number}", "state": state, "generation": 1, "size_bytes": 1}])
        swap = {"id": f"swap of {state}", "kind": "swap", "state": "done", "video_id": "v", "old_blob_id": number}
        about = {"run_id": "r", "detail": {}, "generation": 1, "lease_token": 1}
        put(engine, operations, [{**swap, **about, "created_at": long_ago, "updated_at": long_ago}])
    assert run(engine) == {"operations": 1}
    assert ids(engine, operations) == {"swap of deleting", "swap of retired"}


def test_pruning_works_in_batches_stops_in_time_and_obeys_a_freeze(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clean(engine)
    rows = [{"start_at": at - timedelta(days=500, minutes=n), "tier": "", "model": "", "seconds": 900, "figures": {}}
            for n in range(25)]  # fmt: skip
    put(engine, performance_windows, rows)
    monkeypatch.setattr(pruning, "BATCH", 10)
    freeze(engine, by="test", reason="an audit")
    with pytest.raises(Frozen):
        run(engine)
    thaw(engine, by="test")
    with LeaseManager(engine) as manager:
        (lease,) = manager.take(["flow/prune_cache"])
        assert forget(engine, POLICY, lease=lease, seconds=0) == {}
    assert overdue(engine, POLICY) == {"performance_windows": 25}
    assert run(engine, RecordRetentionPolicy(windows_days=None)) == {}
    assert run(engine) == {"performance_windows": 25}
