"""Read a store in which two users have the same rows: a read returns the rows asked for, in the states asked for."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa

from reelkeeper.model import Counts, Done, Notice, Outcome, PlannedRule, StoredObject
from reelkeeper.model.money import Balance, Freed, QuotaUse
from reelkeeper.store import Session
from reelkeeper.store.alerts import alerts, outbox, webhooks
from reelkeeper.store.billing import credit_holds, job_totals, ledger, quotas
from reelkeeper.store.core import deployment, former_ids
from reelkeeper.store.core.audit import Event, append, begun_before
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.jobs import breakers, claims, lanes, queue, slots, vendor_jobs
from reelkeeper.store.lifecycle import (
    backlog,
    doubts,
    notices,
    plan_progress,
    plan_results,
    plans,
    purges,
    restorable,
    swaps,
)
from reelkeeper.store.lifecycle.notices import Undelivered
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import lost
from reelkeeper.store.tables import storage_accounts, transfers, videos
from reelkeeper.store.videos import cache, intents, overwrites, stock, user_data
from reelkeeper.store.videos.conditions import CLAIM_TIMEOUT, DELETED
from reelkeeper.store.videos.videos import live_seconds
from tests.store.two_users import AT, HELD_PLAN, NUMBERS, VIDEO, Setup, set_values

Read = Callable[[Session], object]

OF_ANN, OF_BOB = AT + timedelta(days=1), AT + timedelta(days=2)  # the times in their rows
LATER: Final = datetime(2099, 1, 1, tzinfo=UTC)
OWN_MESSAGE: Final[sa.ColumnElement[Any]] = sa.literal_column("notice_id")
WAITS: Final = {"delivered_at": None, "released_at": None}
STANDS: Final[Setup] = {"notices": {"ended_at": None}}
TOLD: Final[Setup] = STANDS | {"notice_deliveries": {"delivered_at": OF_ANN, "released_at": None}}
APPLIED: Final[Setup] = {"plans": {"state": "applied", "applied_at": Clock()}, "leases": {"name": HELD_PLAN}}
OLD_BLOB: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE id WHEN 'operations 1' THEN 1 ELSE 2 END")
SWAPPED: Final = {"kind": "swap", "state": "done", "old_blob_id": OLD_BLOB, "new_blob_id": 11}
TO_UNDO: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE id WHEN 'operations 1' THEN 11 ELSE 12 END")
THEIRS: Final[sa.ColumnElement[Any]] = sa.literal_column(f"CASE WHEN id % 2 THEN '{VIDEO}' ELSE 'videos of bob' END")
BEFORE: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE WHEN id > 10 THEN 6 ELSE 7 END")
TO_TAKE_BACK: Final[Setup] = {
    "operations": SWAPPED
    | {"new_blob_id": OLD_BLOB, "old_blob_id": TO_UNDO, "aside_blob_id": None, "run_id": "a swap's"},
    "blobs": {"state": sa.literal_column("CASE WHEN id > 10 THEN 'retired' ELSE 'live' END"), "video_id": THEIRS}
    | {"generation": BEFORE},
}
SMALLER: Final[dict[str, Any]] = {
    "size_bytes": sa.literal_column("CASE id WHEN 1 THEN 4 WHEN 2 THEN 5 ELSE 6 END"),
    "video_id": THEIRS,
    "generation": BEFORE,
}
RETIRED: Final[Setup] = {"videos": {"state": "retired"}, "blobs": {"state": "retired"}}
GONE_BUT_1: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE id WHEN 1 THEN 'live' ELSE 'gone' END")
ANNOUNCED: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE id WHEN 11 THEN 'pending' ELSE 'gone' END")
GONE_BUT_11: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE id WHEN 11 THEN 'live' ELSE 'gone' END")
PURGED: Final[Setup] = {"verdicts": {"outcome": "purged"}, "plans": {"state": "applied"}}
COMPRESS: Final = {"action": "compress", "outcome": None}
TO_ANN: Final[sa.ColumnElement[Any]] = sa.literal_column("CASE WHEN id IN (1, 11) THEN 'webhook_endpoints 1' END")
OPEN: Final[Setup] = {"webhook_endpoints": {"disabled_at": None}}
QUEUED: Final[Setup] = {"jobs": {"state": "queued", "provider_key": None}}


def is_told(*at: datetime) -> Read:
    """Return which users' videos may be retired at each of these times, where one of them was promised notice."""
    promised = {"tier of ann": 2}
    return lambda session: [
        session.scalars(sa.select(videos.c.user_id).where(notices.given(promised, each))).all() for each in at
    ]


def one_notice(told_at: datetime | None = None, *, is_lost: bool = False) -> dict[str, Notice]:
    return {VIDEO: Notice(VIDEO, "tier of ann", OF_ANN, told_at, is_lost)}


def standing(session: Session) -> object:
    return notices.standing(session, [VIDEO])


def events_before(session: Session) -> object:
    append(session, [Event("adopt", "run", VIDEO)])
    return [begun_before(session, seconds) for seconds in (60, -60)]


def about_ann(session: Session) -> object:
    """Count the rows about a user, by table; none of them is another's."""
    append(session, [Event("adopt", "run", VIDEO), Event("adopt", "run", "videos of bob")])
    append(session, [Event("adopt", "run", user_id="ann")])
    found = {name: [*rows] for name, rows in user_data.rows(session, "ann")}
    assert "bob" not in repr(found)
    return {name: len(rows) for name, rows in found.items()}


def restorables(session: Session) -> object:
    """Return what can be restored of a run, of a run with swaps, of a video and of a user."""
    asked = (("run_id", "run_id of ann"), ("run_id", "a swap's"), ("video_id", VIDEO), ("user_id", "ann"))
    nothing = {"run_id": None, "video_id": None, "user_id": None}
    found = {of: restorable.find(session, **nothing | {what: of}) for what, of in asked}
    return {of: [(one.video_id, one.wanted_blob_id) for one in rows] for of, rows in found.items()}


def paid(session: Session) -> object:
    """Return what each user paid in three spans of time, where one of them has paid, and one got something back."""
    rows = (("ann", "capture", 5, OF_ANN), ("bob", "refund", 2, OF_BOB))
    for user, kind, amount, at in rows:
        row = {"idempotency_key": kind, "request_sha256": "", "user_id": user, "amount_microusd": amount, "detail": {}}
        session.execute(sa.insert(transfers).values(row | {"id": kind, "kind": kind, "at": at}))
    return [ledger.paid(session, *span) for span in ((OF_ANN, OF_BOB), (OF_BOB, LATER), (AT, OF_ANN))]


def counted_anew(session: Session) -> object:
    session.execute(sa.delete(storage_accounts))
    return [quotas.ensure(session, ["ann"]) for _ in "12"], session.execute(sa.select(storage_accounts)).all()


def overwritten(session: Session) -> object:
    found = {number: StoredObject(f"{name}/key", 8, "new", AT) for name, number in NUMBERS.items()}
    return [one.blob_id for one in overwrites.find_overwritten(session, found, None, timedelta())]


def blocked(session: Session) -> object:
    """Block the bytes of a video; return what is blocked then."""
    new = takedowns.block(session, takedowns.targets(session, [VIDEO]))
    again = takedowns.block(session, takedowns.targets(session, [VIDEO]))
    same = takedowns.videos_with_same_bytes(session, VIDEO)
    return new, [*again], same, takedowns.find_blocked(session, [1, 2, 11])


CASES: Final[dict[str, tuple[Setup, Read, object]]] = {
    "a notice that waits to be delivered": (
        STANDS | {"notice_deliveries": WAITS | {"message_id": OWN_MESSAGE}},
        standing,
        one_notice(),
    ),
    "a notice whose message is not there any more": (
        STANDS | {"notice_deliveries": WAITS},
        standing,
        one_notice(is_lost=True),
    ),
    "a notice whose message was withdrawn": (
        STANDS | {"notice_deliveries": WAITS | {"message_id": OWN_MESSAGE}, "outbox": {"state": "withdrawn"}},
        standing,
        one_notice(is_lost=True),
    ),
    "a notice that was delivered": (TOLD, standing, one_notice(OF_ANN)),
    "a notice that was released": (
        STANDS | {"notice_deliveries": {"delivered_at": None}},
        standing,
        one_notice(OF_ANN),
    ),
    "a notice that has ended": ({}, standing, {}),
    "a notice of a video that is not live": (STANDS | {"videos": {"state": "retired"}}, standing, {}),
    "notices that each endpoint has not accepted": (
        STANDS | {"notice_deliveries": WAITS},
        notices.undelivered,
        [Undelivered(f"endpoint_id of {name}", 1, at) for name, at in (("ann", OF_ANN), ("bob", OF_BOB))],
    ),
    "notices that have ended, to endpoints that have not accepted them": (
        {"notice_deliveries": WAITS},
        notices.undelivered,
        [],
    ),
    "whose days of notice are over": (
        TOLD,
        is_told(OF_ANN + timedelta(days=2), OF_ANN + timedelta(days=2, seconds=-1)),
        [["ann", "bob"], ["bob"]],
    ),
    "who has no notice": ({}, is_told(LATER), [["bob"]]),
    "who has one of an earlier tier": (TOLD | {"notices": {"ended_at": None, "tier": "x"}}, is_told(LATER), [["bob"]]),
    "a plan under way": (APPLIED, lambda session: plan_progress.under_way(session, "flow of ann"), "plans 1"),
    "a plan whose work is over": (
        APPLIED | {"leases": {"name": HELD_PLAN, "holder": ""}},
        lambda session: plan_progress.under_way(session, "flow of ann"),
        None,
    ),
    "a plan of yesterday": (
        APPLIED | {"plans": {"state": "applied"}},
        lambda session: plan_progress.is_under_way(session, "plans 1"),
        False,
    ),
    "a plan of another flow": (APPLIED, lambda session: plan_progress.under_way(session, "flow of bob"), None),
    "what a plan has to compress": (
        {"verdicts": COMPRESS},
        lambda session: plan_progress.left(session, "plans 1"),
        (Counts(2, 14), Counts(2, 14)),
    ),
    "what a plan has compressed": (
        {"verdicts": COMPRESS | {"outcome": "compressed"}},
        lambda session: plan_progress.left(session, "plans 1"),
        (Counts(0, 0), Counts(2, 14)),
    ),
    "items that are not settled": (
        {"verdicts": COMPRESS},
        lambda session: [
            plan_progress.unsettled(session, "plans 1", [1, 2], last_try=last_try) for last_try in (False, True)
        ],
        [{1}, set()],
    ),
    "items that are tried again": (
        {"verdicts": COMPRESS | {"outcome": plan_progress.AGAIN}},
        lambda session: [
            plan_progress.unsettled(session, "plans 1", [1, 2], last_try=last_try) for last_try in (False, True)
        ],
        [set(), {1}],
    ),
    "items that a plan names": (
        {"verdicts": COMPRESS},
        lambda session: [item.blob_id for items in plans.planned(session, "plans 1", "compress") for item in items],
        [1, 11],
    ),
    "items of another action": ({}, lambda session: [*plans.planned(session, "plans 1", "compress")], []),
    "a swap that a killed run has done": (
        {"operations": SWAPPED},
        lambda session: [swaps.done_before(session, blob_id, "run_id of ann") for blob_id in (1, 2)],
        [Outcome(VIDEO, "compressed", "outcome of ann", 7, 7, 1), None],
    ),
    "a restore that a killed run has done": (
        {"operations": SWAPPED | {"kind": "restore"}},
        lambda session: swaps.done_before(session, 1, "run_id of ann"),
        None,
    ),
    "a swap that was given up": (
        {"operations": SWAPPED | {"state": "abandoned"}},
        lambda session: swaps.done_before(session, 1, "run_id of ann"),
        None,
    ),
    "bytes whose grace is over": ({"blobs": {"state": "retired"}}, purges.due, Counts(4, 28)),
    "bytes in their grace": ({"blobs": {"state": "retired", "purge_after": LATER}}, purges.due, Counts(0, 0)),
    "bytes that were taken down, elsewhere": (
        {"blobs": {"sha256": "alike"}},
        blocked,
        ({1}, [], ["videos of bob"], {VIDEO: 1, "videos of bob": 2}),
    ),
    "bytes that were taken down, and are gone elsewhere": (
        {"blobs": {"sha256": "alike", "state": "gone"}},
        blocked,
        ({1}, [], [], {VIDEO: 1, "videos of bob": 2}),
    ),
    "other bytes than those taken down": ({}, blocked, ({1}, [], [], {VIDEO: 1})),
    "what a plan does, by rule": (
        {},
        lambda session: plan_results.by_rule(session, "plans 1"),
        [PlannedRule("action of ann", "rule", 2, 14, 14, 14, "segment of ann")],
    ),
    "what a plan does, where no saving is known": (
        {"verdicts": {"saving_microusd": None}},
        lambda session: plan_results.by_rule(session, "plans 1"),
        [PlannedRule("action of ann", "rule", 2, 14, None, 14, "segment of ann")],
    ),
    "what a plan has done": (
        {"verdicts": {"outcome": "compressed", "after_bytes": 3}},
        lambda session: plan_results.by_outcome(session, "plans 1"),
        [Done("compressed", 2, 14, 6)],
    ),
    "what a plan has not done": (
        {"verdicts": {"outcome": plan_progress.AGAIN, "after_bytes": None}},
        lambda session: plan_results.by_outcome(session, "plans 1"),
        [Done(plan_results.NOT_DONE, 2, 14, 14)],
    ),
    "where a plan has failed": (
        {"verdicts": {"outcome": "failed"}},
        lambda session: plan_results.failures(session, "plans 1", 1),
        [Outcome("blob 1", "failed", "outcome_reason of ann", 7, 7, 1)],
    ),
    "a plan's items": (
        {},
        lambda session: [one.blob_id for one in plan_results.plan_items(session, "plans 1")],
        [1, 11],
    ),
    "videos retired of late": (
        {"videos": {"retired_at": Clock(-86_000)}},
        plan_results.retired_in_24h,
        2,
    ),
    "videos retired before": (
        {"videos": {"retired_at": Clock(-87_000)}},
        plan_results.retired_in_24h,
        0,
    ),
    "how many videos the last plan left": (
        {"plans": {"state": "applied", "population": 9}, "verdicts": {"outcome": "retired"}},
        plan_results.last_population,
        7,
    ),
    "no plan was applied": ({}, plan_results.last_population, None),
    "the newest plans": (
        {},
        lambda session: [(one.id, one.items, one.size_bytes) for one in plan_results.recent_plans(session, limit=1)],
        [("plans 2", 2, 14)],
    ),
    "retired bytes": (
        {"blobs": {"state": "retired"}},
        stock.in_grace,
        (4, 28, OF_ANN),
    ),
    "no retired bytes": ({"blobs": {"state": "gone"}}, stock.in_grace, (0, 0, None)),
    "blobs at keys that may not be as recorded": (
        {"blobs": {"is_ours": True}},
        lambda session: [
            (key, found.blob_id, found.is_live, found.is_settled)
            for key, found in doubts.suspects(session, ["ann/key", "ann/put"]).items()
        ],
        [("ann/key", 1, True, True)],
    ),
    "what purges have freed": (
        PURGED,
        lambda session: backlog.freed_by_day(session, OF_BOB),
        [Freed(OF_ANN.date(), "rule", 14)],
    ),
    "what was not purged has freed nothing": (
        PURGED | {"verdicts": {"outcome": "retired"}},
        lambda session: backlog.freed_by_day(session, LATER),
        [],
    ),
    "what replaced bytes have freed": (
        PURGED | {"verdicts": {"outcome": "purged", "rule": "replaced", "generation": 6}, "blobs": SMALLER},
        lambda session: backlog.freed_by_day(session, LATER),
        [Freed(OF_ANN.date(), "replaced", 10), Freed(OF_BOB.date(), "replaced", 9)],
    ),
    "what purges will free": (
        {"blobs": {"state": "deleting"}},
        backlog.purging_by_day,
        {OF_ANN.date(): 14, OF_BOB.date(): 14},
    ),
    "live bytes by day and tier": (
        {"holds": {"released_at": AT}},
        lambda session: sorted(backlog.live_by_day_and_tier(session, AT), key=repr),
        [(OF_ANN.date(), "tier of ann", False, 7), (OF_BOB.date(), "tier of bob", False, 7)],
    ),
    "what was uploaded since a day": (
        {},
        lambda session: backlog.uploaded_by_tier(session, date(2026, 1, 4)),
        {("tier of bob", False): 7},
    ),
    "open alerts, the latest first": (
        {},
        lambda session: [one.id for one in alerts.listed(session, everything=False)],
        ["alerts 2", "alerts 1"],
    ),
    "one alert": (
        {},
        lambda session: [
            found and found.id for found in (alerts.find(session, "alerts 2"), alerts.find(session, "none"))
        ],
        ["alerts 2", None],
    ),
    "endpoints' addresses": (
        {},
        lambda session: (
            [webhooks.url_of(session, f"webhook_endpoints {number}") for number in (2, 3)],
            webhooks.urls(session),
            webhooks.count(session),
        ),
        (
            ["url of bob", None],
            {"webhook_endpoints 1": "url of ann", "webhook_endpoints 2": "url of bob"},
            2,
        ),
    ),
    "a user's former ids": (
        {},
        lambda session: (
            former_ids.of_user(session, "ann"),
            [former_ids.owner(session, name) for name in ("former_ids 2", "ann")],
            former_ids.known_users(session, ["former_ids 1", "bob", "eve"]),
        ),
        (["former_ids 1"], ["bob", None], {"former_ids 1": "ann", "bob": "bob", "eve": "eve"}),
    ),
    "the last event before a time": ({}, events_before, [0, 1]),
    "alerts that are over": (
        {"alerts": {"state": "resolved"}},
        lambda session: [
            [one.id for one in alerts.listed(session, everything=everything, limit=1)] for everything in (False, True)
        ],
        [[], ["alerts 2"]],
    ),
    "alerts of a time": (
        {"alerts": {"state": "resolved"}},
        lambda session: [one.id for one in alerts.listed(session, everything=True, during=(OF_ANN, OF_BOB))],
        ["alerts 1"],
    ),
    "alerts by rule": (
        {},
        lambda session: [
            len(alerts.listed(session, everything=True, only="rule")),
            len(alerts.listed(session, everything=True, but="rule")),
        ],
        [2, 0],
    ),
    "alerts that concern new findings": (
        {"alerts": {"state": "resolved"}},
        lambda session: [
            len(alerts.related(session, rules, periods))
            for rules, periods in ((["rule"], ["period"]), (["rule"], ["other"]), (["other"], ["period"]))
        ],
        [2, 0, 0],
    ),
    "messages that wait": ({}, lambda session: outbox.count_waiting(session)[0], 2),
    "messages that the second sink does not have": (
        {"outbox": {"copied_at": None, "attempts": 0}},
        lambda session: [
            [number for number, _ in outbox.overdue(session, 60, tried=tried, limit=9)] for tried in (False, True)
        ],
        [[1, 2], []],
    ),
    "messages of an hour": (
        {"outbox": {"copied_at": None, "created_at": Clock()}},
        lambda session: outbox.overdue(session, 3600, tried=False, limit=9),
        [],
    ),
    "messages about alerts that fire": (
        {"outbox": {"copied_at": None}, "alerts": {"message_id": 2, "is_told": True}},
        lambda session: [number for number, _ in outbox.uncopied(session, ["rule"])],
        [2],
    ),
    "messages about alerts that were not told": (
        {"outbox": {"copied_at": None}, "alerts": {"message_id": 2}},
        lambda session: outbox.uncopied(session, ["rule"]),
        [],
    ),
    "an endpoint's events that wait": (
        OPEN | {"outbox": {"endpoint_id": TO_ANN}},
        lambda session: [(one.id, one.waiting, one.given_up) for one in webhooks.listed(session)],
        [("webhook_endpoints 1", 2, 0), ("webhook_endpoints 2", 0, 0)],
    ),
    "an endpoint's events that were given up": (
        OPEN | {"outbox": {"endpoint_id": TO_ANN, "state": "given_up"}},
        lambda session: [(one.id, one.waiting, one.given_up) for one in webhooks.listed(session)],
        [("webhook_endpoints 1", 0, 2), ("webhook_endpoints 2", 0, 0)],
    ),
    "endpoints with events to be sent": (
        OPEN | {"outbox": {"endpoint_id": TO_ANN}},
        webhooks.due_endpoints,
        ["webhook_endpoints 1"],
    ),
    "an endpoint's events, one of a subject": (
        OPEN | {"outbox": {"endpoint_id": TO_ANN}},
        lambda session: [one.message_id for one in webhooks.due(session, "webhook_endpoints 1", 9)],
        [1],
    ),
    "an endpoint's events but those at work": (
        OPEN | {"outbox": {"endpoint_id": TO_ANN, "subject": None}},
        lambda session: [one.message_id for one in webhooks.due(session, "webhook_endpoints 1", 9, but=[1])],
        [11],
    ),
    "a user's credits": (
        {"credit_holds": {"refunded_microusd": 2}},
        lambda session: [ledger.balance(session, name) for name in ("ann", "eve")],
        [Balance(7, 7, 5), Balance(0, 0, 0)],
    ),
    "what users paid in a time, less refunds, without grants": ({}, paid, [{"ann": 5}, {"bob": -2}, {}]),
    "a user's bytes": (
        {},
        lambda session: [quotas.use_of(session, name) for name in ("ann", "eve")],
        [QuotaUse("ann", "tier of ann", 7, 7, 7), None],
    ),
    "a user's bytes, where they were not counted": (
        {"blobs": {"size_bytes": sa.literal_column("CASE id WHEN 1 THEN 3 ELSE 9 END")}},
        counted_anew,
        ([1, 0], [("ann", 3, 0, None)]),
    ),
    "users after another": ({}, lambda session: [one[0] for one in quotas.uses(session, "ann", 9)], ["bob"]),
    "users that are being erased": ({"users": {"erasing_at": AT}}, lambda session: quotas.uses(session, "", 9), []),
    "holds and reservations whose time is over": (
        {},
        lambda session: (credit_holds.overdue(session), quotas.overdue(session)),
        ((2, 14), (2, 14)),
    ),
    "holds and reservations that last": (
        {"credit_holds": {"expires_at": LATER}, "reservations": {"expires_at": LATER}},
        lambda session: (credit_holds.overdue(session), quotas.overdue(session)),
        ((0, 0), (0, 0)),
    ),
    "jobs that wait": (QUEUED, claims.count_states, {"queued": 2}),
    "jobs that succeeded": ({"jobs": {"state": "succeeded"}}, claims.count_states, {}),
    "jobs that are begun": (
        {"jobs": {"state": "running", "lease_until": LATER}},
        lambda session: [(one.user_id, one.seconds, one.running) for one in claims.begun(session)],
        [("ann", 0.5, 1), ("bob", 0.5, 1)],
    ),
    "jobs of dead workers": (
        {"jobs": {"state": "running"}},
        lambda session: (claims.left_behind(session, 1), [one.running for one in claims.begun(session)]),
        (["jobs 1"], [0, 0]),
    ),
    "jobs of living workers": (
        {"jobs": {"state": "running", "lease_until": LATER}},
        lambda session: (claims.left_behind(session, 9), claims.running_by_lane(session)),
        ([], {"lane of ann": 1, "lane of bob": 1}),
    ),
    "jobs that ended of late": (
        {"jobs": {"state": "succeeded", "finished_at": Clock(-50)}},
        lambda session: [slots.is_any_lately(session, seconds) for seconds in (60, 40)],
        [True, False],
    ),
    "a user's stored videos": (
        {},
        lambda session: [
            [one[0] for one in user_data.stored_videos(session, "ann", after, 9)] for after in ("", VIDEO)
        ],
        [[VIDEO], []],
    ),
    "a user's videos whose bytes are lost": (
        {"blobs": {"state": "lost"}},
        lambda session: user_data.stored_videos(session, "ann", "", 9),
        [],
    ),
    "all that is stored about a user": (
        {},
        about_ann,
        dict.fromkeys(user_data.TABLES, 1) | {"credits": 2, "holds": 2, "history": 2},
    ),
    "retired videos": (
        RETIRED,
        restorables,
        {"run_id of ann": [(VIDEO, 1)], "a swap's": [], VIDEO: [(VIDEO, 1)], "ann": [(VIDEO, 1)]},
    ),
    "videos that were lost": (
        RETIRED | {"videos": {"state": "lost"}},
        restorables,
        {"run_id of ann": [(VIDEO, 1)], "a swap's": [], VIDEO: [(VIDEO, 1)], "ann": [(VIDEO, 1)]},
    ),
    "videos that their user deleted": (
        RETIRED | {"videos": {"state": "retired", "retire_reason": DELETED}},
        restorables,
        {"run_id of ann": [(VIDEO, 1)], "a swap's": [], VIDEO: [(VIDEO, 1)], "ann": []},
    ),
    "videos whose swap can be taken back": (
        TO_TAKE_BACK,
        restorables,
        {"run_id of ann": [], "a swap's": [(VIDEO, 11), ("videos of bob", 12)], VIDEO: [(VIDEO, 11)], "ann": []},
    ),
    "retired videos whose swap could have been taken back": (
        TO_TAKE_BACK | {"videos": {"state": "retired"}},
        restorables,
        {"run_id of ann": [(VIDEO, 11)], "a swap's": [], VIDEO: [(VIDEO, 11)], "ann": [(VIDEO, 11)]},
    ),
    "until when a purge has claimed a video's bytes": (
        RETIRED | {"blobs": {"state": "deleting"}},
        lambda session: (
            restorable.claimed(session, run_id=None, video_id=VIDEO, user_id=None),
            restorable.find(session, run_id=None, video_id=VIDEO, user_id=None),
        ),
        ({VIDEO: OF_ANN + CLAIM_TIMEOUT}, []),
    ),
    "work that is open": (
        {"operations": {"state": "open", "new_blob_id": 11}},
        lambda session: [[one.id for one in intents.open_intents(session, of)] for of in (None, VIDEO)],
        [["operations 1", "operations 2"], ["operations 1"]],
    ),
    "work that is over": ({"operations": {"new_blob_id": 11, "state": "done"}}, intents.open_intents, []),
    "the key of a live object": ({"blobs": {"state": GONE_BUT_11}}, deployment.any_key, "ann/put"),
    "no live object": ({"blobs": {"state": "retired"}}, deployment.any_key, None),
    "objects that were overwritten": ({"blobs": {"state": GONE_BUT_1}}, overwritten, [1, 2]),
    "objects of rows that are gone, or announced": (
        {"blobs": {"state": ANNOUNCED, "key": "ann/key"}},
        overwritten,
        [1, 2],
    ),
    "objects of another row": ({"blobs": {"state": GONE_BUT_11, "key": "ann/key"}}, overwritten, []),
    "objects that are no videos": (
        {"orphans": {"verdict": "not_a_video"}},
        lambda session: [*user_data.other_files(session)][2:4],
        [("ann/orphan", 7), ("ann/put", 7)],
    ),
    "objects that may be videos": (
        {"orphans": {"verdict": "unowned"}},
        lambda session: [*user_data.other_files(session)],
        [],
    ),
    "videos that a run has lost": (
        {"videos": {"state": "lost"}},
        lambda session: [lost.videos_of_run(session, f"run_id of {name}") for name in ("ann", "eve")],
        [[VIDEO], []],
    ),
    "the length of a video": ({}, lambda session: live_seconds(session, VIDEO), 0.5),
    "the length of a video that is not live": (
        {"blobs": {"state": "retired"}},
        lambda session: live_seconds(session, VIDEO),
        None,
    ),
    "the entries of the cache": ({}, cache.count, (4, 28)),
    "a video for a request": (
        {"cache_entries": {"expires_at": None}},
        lambda session: [cache.peek(session, key) for key in ("key of ann", "key of eve")],
        [VIDEO, None],
    ),
    "a video for a request, of the past": ({}, lambda session: cache.peek(session, "key of ann"), None),
    "what scopes have spent": (
        {"job_totals": {"refusals": 0}},
        lambda session: [
            sorted(one.scope for one in job_totals.of_kind(session, kind, ["period"], least))
            for kind, least in (("user", 7), ("user", 8), ("tier", 0))
        ],
        [["user:ann", "user:bob"], [], []],
    ),
    "scopes that were refused a job": (
        {},
        lambda session: [
            sorted(one.scope for one in found)
            for found in (
                job_totals.of_kind(session, "user", ["period"], 8),
                job_totals.refused(session, ["period"]),
                job_totals.refused(session, ["another"]),
            )
        ],
        [["user:ann", "user:bob"], ["user:ann", "user:bob"], []],
    ),
    "what a scope has in flight": (
        {"job_totals": {"period": ""}},
        lambda session: job_totals.flying(session, ["user:ann", "user:eve"]),
        {"user:ann": job_totals.Flying(7, 7, 7)},
    ),
    "reservations that expire but for uploads at work": (
        {"operations": {"detail": {"reservation": "reservations 1"}}},
        lambda session: ([one.id for one in quotas.expiring(session, 9)], quotas.is_in_use(session, "reservations 1")),
        (["reservations 2"], True),
    ),
    "reservations that expire after their uploads": (
        {"operations": {"detail": {"reservation": "reservations 1"}, "state": "done"}},
        lambda session: ([one.id for one in quotas.expiring(session, 9)], quotas.is_in_use(session, "reservations 1")),
        (["reservations 1", "reservations 2"], False),
    ),
    "jobs that a vendor has": (
        {},
        lambda session: ([*lanes.there(session)], len(lanes.occupied(session)), [*lanes.there(session, "other")]),
        ([("fal", 2, 0)], 2, []),
    ),
    "jobs that a vendor has not answered about": (
        {"vendor_jobs": {"vendor_id": None}},
        lambda session: [*lanes.there(session, "fal")],
        [("fal", 0, 2)],
    ),
    "jobs that a vendor has ended": (
        {"vendor_jobs": {"ended_at": AT}},
        lambda session: ([*lanes.there(session)], lanes.occupied(session)),
        ([], []),
    ),
    "jobs in doubt": (
        {"jobs": {"state": "parked"}},
        lambda session: (lanes.parked(session), [*lanes.there(session)]),
        ({"provider of ann": 1, "provider of bob": 1}, []),
    ),
    "jobs that a vendor took of late": (
        {"vendor_jobs": {"sent_at": Clock(-50)}},
        lambda session: [
            lanes.accepted_lately(session, "fal", seconds, "provider_key of ann")[0] for seconds in (60, 40)
        ],
        [1, 0],
    ),
    "when a job was sent": (
        {},
        lambda session: [vendor_jobs.sent_at(session, f"provider_key of {name}") for name in ("ann", "eve")],
        [AT, None],
    ),
    "what counts for jobs at their vendor": (
        {"vendor_jobs": {"counted_microusd": 7, "ended_at": AT}},
        lambda session: [vendor_jobs.counted(session, f"provider_key of {name}") for name in ("ann", "eve")],
        [vendor_jobs.Counted(7, AT, is_named=True, provider="fal"), None],
    ),
    "a job for which nothing counts": (
        {"vendor_jobs": {"counted_microusd": 0}},
        lambda session: vendor_jobs.counted(session, "provider_key of ann"),
        None,
    ),
    "a job that ended before its vendor named it": (
        {"jobs": {"state": "dead", "provider_job_id": None}},
        lambda session: claims.nameless(session, "provider_key of ann"),
        None,
    ),
    "jobs that were sent in a time": (
        {},
        lambda session: [
            [(one.key, one.request["said"]) for one in vendor_jobs.sent_between(session, provider, first, end)]
            for provider, first, end in (
                ("fal", AT, OF_BOB),
                ("fal", OF_ANN, OF_BOB),
                ("fal", AT - timedelta(1), AT),
                ("other", AT, OF_BOB),
            )
        ],
        [[(f"provider_key of {name}", f"request of {name}") for name in ("ann", "bob")], [], [], []],
    ),
    "the job that makes a video": (
        {},
        lambda session: [queue.leader_of(session, f"cache_key of {name}") for name in ("ann", "eve")],
        ["jobs 1", None],
    ),
    "a job that has made its video": (
        {"jobs": {"state": "succeeded"}},
        lambda session: (queue.leader_of(session, "cache_key of ann"), queue.unfinished(session, ["hold_id of ann"])),
        (None, []),
    ),
    "a request that is new and whose video is made": (
        {},
        lambda session: queue.look(session, "ann", "new", "cache_key of bob"),
        queue.Existing("tier of ann", None, False, "jobs 2"),
    ),
    "a user that is not there": ({}, lambda session: queue.look(session, "eve", "new", "new"), None),
    "jobs of a hold, and the oldest": (
        {},
        lambda session: (
            queue.unfinished(session, ["hold_id of ann"]),
            queue.oldest_waiting(session),
            queue.counted(session),
        ),
        (["jobs 1"], OF_ANN, {"queued": 2}),
    ),
    "jobs that wait no more, and the oldest": (
        {"jobs": {"state": "running"}},
        lambda session: (queue.oldest_waiting(session), queue.counted(session)),
        (None, {"running": 2}),
    ),
    "jobs that wait to be sent": (
        {"jobs": {"provider_key": None}},
        lambda session: [
            [one.id for one in breakers.unsent(session, [f"lane of {name}"], ["model"], 9)] for name in ("ann", "eve")
        ],
        [["jobs 1"], []],
    ),
    "jobs that a vendor may be working on": (
        {},
        lambda session: (
            [breakers.count_begun(session, f"lane of {name}") for name in ("ann", "eve")],
            breakers.at_work(session, ["jobs 1"]),
        ),
        ([1, 0], ["jobs 1"]),
    ),
    "jobs that a worker has": (
        {"jobs": {"state": "running", "provider_key": None}},
        lambda session: (breakers.count_begun(session, "lane of ann"), breakers.at_work(session, ["jobs 2"])),
        (1, ["jobs 2"]),
    ),
    "jobs that no vendor may be working on": (
        {"jobs": {"provider_key": None}},
        lambda session: (breakers.count_begun(session, "lane of ann"), breakers.at_work(session, ["jobs 1"])),
        (0, []),
    ),
    "jobs that were sent": ({}, lambda session: breakers.unsent(session, ["lane of ann"], ["model"], 9), []),
}


@pytest.mark.parametrize("what", CASES)
def test_a_read_finds_this(filled_engine: sa.Engine, what: str) -> None:
    setup, read, expected = CASES[what]
    with transaction(filled_engine, "test") as session:
        set_values(session, setup)
        assert read(session) == expected
