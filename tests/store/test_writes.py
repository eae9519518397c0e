"""Write to a store in which two users have the same rows: a write changes these columns, and no other row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import EllipsisType
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from reelkeeper.model import Grace, Outcome, Refusal, StoredObject
from reelkeeper.model.alerts import EventType, Finding, Severity
from reelkeeper.model.money import HoldState, ReservationState
from reelkeeper.model.requests import Incoming, Upload
from reelkeeper.store import Session
from reelkeeper.store.alerts import alerts, outbox, webhooks
from reelkeeper.store.billing import credit_holds, job_totals, ledger, quotas
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs import breakers, claims, queue, vendor_jobs
from reelkeeper.store.lifecycle import doubts, notices, plans, purges, restorable, retirements, swaps
from reelkeeper.store.lifecycle.doubts import Doubt, Suspect
from reelkeeper.store.lifecycle.restorable import Restorable
from reelkeeper.store.lifecycle.swaps import Source
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import lost
from reelkeeper.store.tables import blobs
from reelkeeper.store.videos import cache, holds, in_place, intents, overwrites, uploads
from reelkeeper.store.videos.conditions import DELETED, DELETED_COUNTED, TAKEN_DOWN
from reelkeeper.store.videos.intents import Intent
from reelkeeper.store.videos.overwrites import Overwritten
from tests.store.two_users import AT, VIDEO, Setup, set_values

Write = Callable[[Session], object]
# by row: the columns that change, or that a new row has; ... for any other value; None: it goes
Changes = dict[str, dict[str, Any] | None]

LEASE: Final = Lease("flow/tier_storage", "run", 9)
OTHER_LEASE: Final = LEASE._replace(token=7)  # of the rows' claims
GRACE: Final = Grace(7, 14)
FOUND: Final = StoredObject("ann/key", 8, "new etag", AT)
INTENT: Final = Intent(
    "operations 1", "swap", "run", VIDEO, "ann", 1, 7, 11, 7, "ann/put", 7, "", "", "", 1, 1.0, None, None, 21
)
SOURCE: Final = Source(VIDEO, "ann", 7, 1, "ann/key", 7, None, None, is_ours=False)
SUSPECT: Final = Suspect(1, VIDEO, None, "sha256 of ann", True, None, None, False)  # type: ignore[arg-type]  # unread
DOUBT: Final = Doubt(1, VIDEO, "ann/key", "live", 7, None, "sha256 of ann", 8, "new etag", "sha256 of ann", AT, AT)
FINDING: Final = Finding("budget", "total", Severity.CRITICAL, "title", "text")

BOTH: Final = [VIDEO, "videos of bob"]
OLDER: Final[sa.ColumnElement[Any]] = sa.literal_column(f"CASE id WHEN '{VIDEO}' THEN 3 ELSE 7 END")
OVERWRITTEN: Final = Overwritten(2, BOTH[1], "bob", "gone", FOUND._replace(key="ann/new"), None)
NEW_BYTES: Final[dict[str, Any]] = {
    "id": 23,
    "video_id": "videos of bob",
    "generation": 8,
    "key": "ann/new",
    "is_ours": False,
    "state": "live",
    "size_bytes": 8,
    "etag": "new etag",
    "stored_at": AT,
    "run_id": "run",
}
REFUSAL: Final = ("refused_recipe", "refused_reason", "refused_at")
NEW_VIDEO: Final[dict[str, Any]] = {"blob_id": 23, "generation": 8, "created_at": AT, "run_id": "run"}
NEW_VIDEO.update(dict.fromkeys(REFUSAL))

RESTORABLE: Final = Restorable(
    VIDEO, "ann", "retired", 7, 1, 1, "ann/key", None, 7, None, is_ours=True, stored_at=None, is_in_place=False
)

MAY_GO: Final[Setup] = {
    "verdicts": {"action": "retire"},
    "videos": {"last_viewed_at": None},
    "holds": {"released_at": AT},
    "operations": {"state": "done"},
}
OPEN: Final[Setup] = {"operations": {"state": "open"}, "holds": {"released_at": AT}}
RETIRED: Final[dict[str, Any]] = {"state": "retired", "retired_at": ..., "purge_after": ..., "run_id": "run"}
CLAIMED: Final[dict[str, Any]] = {
    "state": "running",
    "claimed_by": "worker",
    "lease_token": 8,
    "lease_until": ...,
    "line": None,
}
SENT: Final[Setup] = {"outbox": {"endpoint_id": "e", "state": "sent"}}
STANDS: Final[Setup] = {"notices": {"ended_at": None}, "notice_deliveries": {"delivered_at": None, "released_at": None}}
DUE_AGAIN: Final[dict[str, Any]] = {"state": "waiting", "due_at": ..., "attempts": 0}
ENDPOINT: Final = "webhook_endpoints 1"
SENT_JOB: Final = "vendor_jobs provider_key of ann"
DELETING: Final[Setup] = {"blobs": {"state": "deleting"}}


def first_upload(session: Session) -> Upload:
    upload = uploads.find(session, "uploads 1")
    assert upload
    return upload


def first_job(session: Session) -> queue.AdmittedJob:
    job = queue.find(session, "jobs 1")
    assert job
    return job


CASES: Final[dict[str, tuple[Setup, Write, Changes]]] = {
    "a copy is stored": (
        {},
        lambda session: in_place.note_aside(session, INTENT, FOUND, "sha"),
        {"blobs 21": {"etag": "new etag", "size_bytes": 8, "sha256": "sha"}},
    ),
    "a PUT begins": (OPEN, lambda session: in_place.note_sending(session, INTENT), {"operations 1": {"sent_at": ...}}),
    "a PUT is answered": (
        OPEN,
        lambda session: in_place.note_answered(session, INTENT),
        {"operations 1": {"sent_at": None}},
    ),
    "a PUT is undone": (
        OPEN,
        lambda session: in_place.begin_undo(session, INTENT, "why"),
        {"operations 1": {"outcome": "why"}},
    ),
    "a swap in place is published": (
        {},
        lambda session: in_place.publish(session, INTENT, FOUND, GRACE),
        {
            "blobs 1": {"state": "gone", "retire_reason": ..., "run_id": "run"},
            "blobs 11": {"stored_at": AT},
            "blobs 21": RETIRED | {"retire_reason": ...},
        },
    ),
    "the old bytes are back": (
        {},
        lambda session: in_place.abandon(session, INTENT, FOUND, GRACE, "why"),
        {"blobs 1": {"etag": "new etag", "stored_at": AT}, "blobs 21": RETIRED | {"retire_reason": "why"}},
    ),
    "a copy was never made": (
        {"blobs": {"etag": None}},
        lambda session: in_place.abandon(session, INTENT, None, GRACE, "why"),
        {"blobs 21": {"state": "gone", "retire_reason": "why", "run_id": "run"}},
    ),
    "a swap is taken back": (
        {"blobs": {"recipe": "r"}},
        lambda session: in_place.note_taken_back(session, INTENT),
        {VIDEO: {"refused_recipe": "r", "refused_reason": ..., "refused_at": ...}},
    ),
    "a video points at its new bytes": (
        OPEN,
        lambda session: intents.move_pointer(session, INTENT),
        {VIDEO: {"blob_id": 11, "generation": 8, "run_id": "run"}},
    ),
    "a swap is published": (
        OPEN,
        lambda session: intents.close(session, INTENT, published=True, outcome="done", grace=GRACE),
        {"operations 1": {"state": "done", "outcome": "done", "updated_at": ...}, "blobs 11": {"state": "live"}},
    ),
    "an upload is abandoned": (
        OPEN | {"videos": {"state": "pending"}, "blobs": {"run_id": "run"}},
        lambda session: intents.close(
            session, replace(INTENT, aside_blob_id=None), published=False, outcome="why", grace=GRACE
        ),
        {
            "operations 1": {"state": "abandoned", "outcome": "why", "updated_at": ...},
            "blobs 11": {name: value for name, value in RETIRED.items() if name != "run_id"} | {"retire_reason": "why"},
            VIDEO: {"state": "gone"},
        },
    ),
    "old bytes are retired": (
        {},
        lambda session: intents.retire_old(session, INTENT, GRACE),
        {"blobs 1": RETIRED | {"retire_reason": ...}},
    ),
    "bytes are overwritten": (
        {},
        lambda session: overwrites.mark_gone(session, [1], "run"),
        {"blobs 1": {"state": "gone", "retire_reason": ..., "claimed_at": None, "claim_token": None, "run_id": "run"}},
    ),
    "the service stores another video at its key": (
        {"blobs": {"is_ours": True, "state": "live"}, "videos": {"state": "lost", "generation": OLDER}},
        lambda session: overwrites.publish(session, OVERWRITTEN, AT, run_id="run", grace=GRACE),
        {
            "blobs 2": RETIRED | {"retired_at": AT, "retire_reason": ...},
            "blobs 23": NEW_BYTES,
            BOTH[1]: NEW_VIDEO | {"state": "live", "retired_at": None, "retire_reason": None},
        },
    ),
    "the service stores another video, which its user deletes": (
        {"blobs": {"is_ours": True, "state": "gone"}},
        lambda session: overwrites.publish(session, OVERWRITTEN._replace(deleted_at=AT), AT, run_id="run", grace=GRACE),
        {"blobs 23": NEW_BYTES, BOTH[1]: NEW_VIDEO | {"state": "retired"}},
    ),
    "a video's first bytes are announced": (
        {},
        lambda session: uploads.add_pending(session, Incoming("ann", "new", AT, "tag", "model")),
        {
            "videos new": {
                "id": "new",
                "user_id": "ann",
                "generation": 1,
                "state": "pending",
                "created_at": AT,
                "tag": "tag",
                "model": "model",
            }
        },
    ),
    "an upload's reservation expires": (
        {},
        lambda session: uploads.release(session, ["reservations 1"]),
        {"blobs 11": {"state": "gone", "retire_reason": ...}},
    ),
    "an upload is no video": (
        {"blobs": {"run_id": "run"}},
        lambda session: uploads.refuse(session, first_upload(session), "why", GRACE),
        {
            "uploads 1": {"refusal": "why"},
            "blobs 11": {"state": "retired", "retired_at": ..., "purge_after": ..., "retire_reason": ...},
        },
    ),
    "an upload is no video and its bytes are gone": (
        {"blobs": {"state": "gone"}},
        lambda session: uploads.refuse(session, first_upload(session), "why", GRACE),
        {"uploads 1": {"refusal": "why"}},
    ),
    "a failed upload is repeated": (
        {},
        lambda session: uploads.make_pending(session, VIDEO, tag="new"),
        {VIDEO: {"state": "pending", "tag": "new"}},
    ),
    "a hold ends": (
        {"holds": {"released_at": None}},
        lambda session: holds.release(session, "1 of ann"),
        {"holds 1 of ann": {"released_at": ...}},
    ),
    "a video's cache entries go": (
        {},
        lambda session: cache.drop(session, [VIDEO]),
        {"cache_entries key of ann": None, "cache_entries 2 of ann": None},
    ),
    "a swap is refused": (
        OPEN,
        lambda session: swaps.note_refusal(session, SOURCE, Refusal("rule", "why", "r", codec="vp9")),
        {VIDEO: {"refused_recipe": "r", "refused_reason": "why", "refused_at": ...}, "blobs 1": {"codec": "vp9"}},
    ),
    "a doubt is recorded": (
        {"doubts": {"settled_at": None}},
        lambda session: doubts.note(session, SUSPECT, FOUND, "sha"),
        {"doubts 1": {"found_bytes": 8, "found_etag": "new etag", "found_sha256": "sha", "seen_at": ...}},
    ),
    "a doubt is not confirmed": (
        {"doubts": {"settled_at": None}},
        lambda session: doubts.drop_unseen(session, AT + timedelta(days=2)),
        {"doubts 1": None},
    ),
    "bytes are recognized": (
        {"blobs": {"sha256": "sha256 of ann"}},
        lambda session: doubts.recognize(session, SUSPECT, FOUND),
        {"doubts 1": None, "blobs 1": {"etag": "new etag"}},
    ),
    "the stored bytes are accepted": (
        {},
        lambda session: doubts.accept(session, DOUBT, "sha256 of ann", GRACE),
        {"doubts 1": None, "blobs 1": {"size_bytes": 8, "etag": "new etag"}},
    ),
    "recorded bytes are given up": (
        {"doubts": {"settled_at": None}},
        lambda session: doubts.give_up(session, DOUBT),
        {"doubts 1": {"settled_at": ...}},
    ),
    "bytes that were given up may be deleted": (
        {"blobs": {"state": "retired"}},
        lambda session: doubts.let_go(session, [VIDEO]),
        {"doubts 1": None, "blobs 1": {"etag": "found_etag of ann", "sha256": "found_sha256 of ann"}},
    ),
    "a notice is delivered": (
        STANDS | {"notice_deliveries": {"delivered_at": None, "message_id": sa.literal_column("notice_id")}},
        lambda session: notices.delivered(session, [1]),
        {"notice_deliveries 1 endpoint_id of ann": {"delivered_at": ...}},
    ),
    "an endpoint's notices are taken for delivered": (
        STANDS,
        lambda session: notices.release(session, "endpoint_id of ann"),
        {"notice_deliveries 1 endpoint_id of ann": {"released_at": ...}},
    ),
    "an endpoint with notices goes": (
        STANDS,
        lambda session: notices.forget_endpoint(session, "endpoint_id of ann"),
        {"notice_deliveries 1 endpoint_id of ann": None, "notices 1": {"ended_at": ..., "end": ...}},
    ),
    "a notice ends": (
        STANDS | {"notice_deliveries": {"delivered_at": None, "message_id": sa.literal_column("notice_id")}},
        lambda session: notices.end(session, [VIDEO], "why"),
        {"notices 1": {"ended_at": ..., "end": "why"}, "outbox 1": {"state": "withdrawn"}},
    ),
    "a plan's item is done": (
        {},
        lambda session: plans.record_outcomes(session, "plans 1", [Outcome(VIDEO, "retired", "why", 0, 8, 1)]),
        {"verdicts plans 1 1": {"outcome": "retired", "outcome_reason": "why", "after_bytes": 8}},
    ),
    "a plan's video is done": (
        {},
        lambda session: plans.record_outcomes(session, "plans 1", [Outcome(VIDEO, "retired", "why", 0, 8)]),
        {"verdicts plans 1 11": {"outcome": "retired", "outcome_reason": "why", "after_bytes": 8}},
    ),
    "a plan is refused": (
        {},
        lambda session: plans.refuse_plan(session, "plans 1", "why", {"share": 0.5}),
        {
            "plans 1": {
                "state": "refused",
                "refusal": "why",
                "widening": {"share": 0.5},
                "approved_at": None,
                "approved_by": None,
                "approval_reason": None,
            }
        },
    ),
    "a plan would be refused": (
        {"plans": {"state": "ready"}},
        lambda session: plans.note_refusal(session, "plans 1", "why"),
        {"plans 1": {"refusal": "why"}},
    ),
    "a takedown marks": (
        {"videos": {"retired_at": None}, "blobs": {"retired_at": None}, "notices": {"ended_at": AT}},
        lambda session: takedowns.mark(session, [VIDEO], "run"),
        {
            VIDEO: {"state": "retired", "retired_at": ..., "retire_reason": ..., "run_id": "run"},
            **dict.fromkeys(("blobs 1", "blobs 21"), RETIRED | {"retire_reason": ...}),
        },
    ),
    "a takedown marks a video without bytes": (
        {"videos": {"blob_id": None}, "blobs": {"state": "gone"}, "notices": {"ended_at": AT}},
        lambda session: takedowns.mark(session, [VIDEO], "run"),
        {VIDEO: {"state": "gone", "retire_reason": ..., "run_id": "run"}},
    ),
    "a takedown reads bytes": (
        {},
        lambda session: takedowns.note_digests(session, {1: "sha"}),
        {"blobs 1": {"sha256": "sha"}},
    ),
    "a takedown claims": (
        {"videos": {"retire_reason": TAKEN_DOWN}, "blobs": {"state": "retired"}},
        lambda session: takedowns.claim(session, [1], LEASE, run_id="run"),
        {"blobs 1": {"state": "deleting", "run_id": "run", "claimed_at": ..., "claim_token": 9}},
    ),
    "claimed bytes are gone": (
        DELETING | {"videos": {"state": "retired"}},
        lambda session: purges.mark_gone(session, [1], purges.claimed_by(OTHER_LEASE), "run"),
        {
            "blobs 1": {"state": "gone", "claimed_at": None, "claim_token": None},
            VIDEO: {"state": "gone", "run_id": "run"},
        },
    ),
    "a claim is taken back": (
        DELETING,
        lambda session: purges.take_back(session, [1], purges.claimed_by(OTHER_LEASE), GRACE),
        {"blobs 1": {"state": "retired", "claimed_at": None, "claim_token": None, "purge_after": ...}},
    ),
    "graces begin anew": (
        {
            "blobs": {
                "state": sa.literal_column("CASE id WHEN 1 THEN 'retired' WHEN 11 THEN 'deleting' ELSE 'live' END")
            }
        },
        lambda session: purges.renew_graces(session, GRACE),
        {key: {"purge_after": ...} for key in ("blobs 1", "blobs 11")},
    ),
    "deletions of a killed run are settled": (
        {"blobs": {"run_id": "run_id of ann"}, "verdicts": {"outcome": None}},
        lambda session: purges.record_settled(session, [1]),
        {"verdicts plans 1 1": {"outcome": "purged", "outcome_reason": ..., "after_bytes": 0}},
    ),
    "retired videos' bytes are retired": (
        {"videos": {"retire_reason": "why"}},
        lambda session: retirements.retire_blobs(session, [1], AT, run_id="run", grace=GRACE),
        {"blobs 1": RETIRED | {"retire_reason": "why", "retired_at": AT}},
    ),
    "a plan's video is retired": (
        MAY_GO,
        lambda session: retirements.retire_videos(session, "plans 1", BOTH, "run", {}, service_keys=True),
        {VIDEO: {"state": "retired", "retired_at": ..., "retire_reason": "reason of ann", "run_id": "run"}},
    ),
    "a video at the service's key stays": (
        MAY_GO,
        lambda session: retirements.retire_videos(session, "plans 1", BOTH, "run", {}, service_keys=False),
        {},
    ),
    "a video that a plan does not retire stays": (
        MAY_GO | {"verdicts": {"action": "compress"}},
        lambda session: retirements.retire_videos(session, "plans 1", BOTH, "run", {}, service_keys=True),
        {},
    ),
    "a video is retired that is not asked for": (
        MAY_GO,
        lambda session: retirements.retire_videos(session, "plans 1", BOTH[1:], "run", {}, service_keys=True),
        {},
    ),
    "a user deletes a video": (
        MAY_GO,
        lambda session: retirements.delete_video(session, VIDEO, "run", is_counted=True),
        {VIDEO: {"state": "retired", "retire_reason": DELETED_COUNTED, "run_id": "run"}},
    ),
    "a user deletes a retired video": (
        MAY_GO | {"videos": {"state": "retired"}},
        lambda session: retirements.delete_video(session, VIDEO, "run", is_counted=True),
        {VIDEO: {"retire_reason": DELETED, "run_id": "run"}},
    ),
    "a plan's bytes are claimed": (
        MAY_GO | {"videos": {"state": "retired"}, "verdicts": {"action": "purge"}, "blobs": {"state": "retired"}},
        lambda session: purges.claim(session, "plans 1", [1, 2], LEASE, run_id="run", grace=GRACE, service_keys=True),
        {"blobs 1": {"state": "deleting", "run_id": "run", "claimed_at": ..., "claim_token": 9}},
    ),
    "bytes at the service's key are not claimed": (
        MAY_GO | {"videos": {"state": "retired"}, "verdicts": {"action": "purge"}, "blobs": {"state": "retired"}},
        lambda session: purges.claim(session, "plans 1", [1, 2], LEASE, run_id="run", grace=GRACE, service_keys=False),
        {},
    ),
    "an alert is seen again": (
        {},
        lambda session: alerts.see_again(session, "alerts 1", FINDING, "run", AT, reopened=False),
        {
            "alerts 1": {
                "severity": "critical",
                "title": "title",
                "text": "text",
                "suggestion": "",
                "figures": [],
                "impact_microusd": None,
                "run_id": "run",
                "last_at": AT,
            }
        },
    ),
    "an alert still fires": (
        {},
        lambda session: alerts.touch(session, ["alerts 1"], AT),
        {"alerts 1": {"last_at": AT}},
    ),
    "an alert is told": (
        {},
        lambda session: alerts.mark_told(session, ["alerts 1"], 3, AT),
        {"alerts 1": {"told_at": AT, "is_told": True, "message_id": 3}},
    ),
    "an alert is told again": (
        {},
        lambda session: alerts.mark_told_again(session, ["alerts 1"], AT),
        {"alerts 1": {"told_at": AT}},
    ),
    "an alert is known of": (
        {},
        lambda session: alerts.mark_believed(session, ["alerts 1"]),
        {"alerts 1": {"is_told": True}},
    ),
    "an alert was not told": (
        {"alerts": {"is_told": True}},
        lambda session: alerts.mark_untold(session, ["alerts 1"]),
        {"alerts 1": {"told_at": None, "is_told": False, "message_id": None}},
    ),
    "an alert is over": (
        {"alerts": {"is_told": True}},
        lambda session: alerts.close(session, ["alerts 1"], AT),
        {"alerts 1": {"state": "resolved", "resolved_at": AT, "is_told": False}},
    ),
    "an alert is acknowledged": (
        {},
        lambda session: alerts.acknowledge(session, "alerts 1", "eve", AT),
        {"alerts 1": {"state": "acknowledged", "acknowledged_at": AT, "acknowledged_by": "eve"}},
    ),
    "a snooze is ended": (
        {"snoozes": {"ended_at": None}},
        lambda session: alerts.end_snooze(session, "snoozes 1", AT),
        {"snoozes 1": {"ended_at": AT}},
    ),
    "a message is withdrawn": (
        {"outbox": {"attempts": 0, "copied_at": None}},
        lambda session: outbox.withdraw(session, [1]),
        {"outbox 1": {"state": "withdrawn"}},
    ),
    "a message is sent": (
        {},
        lambda session: outbox.mark_sent(session, 1, "receipt"),
        {"outbox 1": {"state": "sent", "sent_at": ..., "receipt": "receipt", "last_error": None, "attachment": None}},
    ),
    "a message is diverted": (
        {},
        lambda session: outbox.mark_diverted(session, 1, "receipt", "error"),
        {"outbox 1": {"state": "diverted", "copied_at": ..., "receipt": "receipt", "last_error": "error"}},
    ),
    "a message is put off": (
        {},
        lambda session: outbox.put_off(session, 1, 60, "error"),
        {"outbox 1": {"due_at": ..., "last_error": "error"}},
    ),
    "a message is copied": (
        {},
        lambda session: outbox.mark_copied(session, [1]),
        {"outbox 1": {"copied_at": ...}},
    ),
    "an endpoint's secret is rotated": (
        {},
        lambda session: webhooks.rotate(session, ENDPOINT, "new", 60),
        {ENDPOINT: {"secret": "new", "old_secret": "secret of ann", "old_secret_until": ...}},
    ),
    "an endpoint's secret is rotated again": (
        {"webhook_endpoints": {"old_secret": "b a", "old_secret_until": AT.replace(year=2099)}},
        lambda session: webhooks.rotate(session, ENDPOINT, "new", 60),
        {ENDPOINT: {"secret": "new", "old_secret": "secret of ann b", "old_secret_until": ...}},
    ),
    "an endpoint chooses events": (
        {},
        lambda session: webhooks.choose(session, ENDPOINT, [EventType.JOB_ENDED]),
        {ENDPOINT: {"events": [str(EventType.JOB_ENDED)]}},
    ),
    "an endpoint is disabled": (
        {},
        lambda session: webhooks.disable(session, ENDPOINT, "why"),
        {ENDPOINT: {"disabled_at": ..., "disabled_reason": "why"}},
    ),
    "an endpoint is enabled": (
        {"outbox": {"endpoint_id": sa.literal_column("CASE WHEN id = 1 THEN 'webhook_endpoints 1' ELSE 'other' END")}},
        lambda session: webhooks.enable(session, ENDPOINT),
        {
            ENDPOINT: {
                "disabled_at": None,
                "disabled_reason": None,
                "failing_since": None,
                "failures": 0,
                "last_error": None,
                "closed_until": ...,
            },
            "outbox 1": {"due_at": ..., "attempts": 0},
        },
    ),
    "an endpoint is removed": (
        {"outbox": {"endpoint_id": sa.literal_column("CASE WHEN id = 1 THEN 'webhook_endpoints 1' ELSE 'other' END")}},
        lambda session: webhooks.remove(session, ENDPOINT),
        {ENDPOINT: None, "outbox 1": {"state": "withdrawn"}},
    ),
    "events are replayed that were given up": (
        {"outbox": {"state": "given_up"}},
        lambda session: webhooks.replay(session, "endpoint_id of ann", None),
        {"outbox 11": DUE_AGAIN},
    ),
    "events are replayed that were sent": (
        {"outbox": {"state": "sent"}},
        lambda session: webhooks.replay(session, "endpoint_id of ann", AT),
        {"outbox 11": DUE_AGAIN},
    ),
    "events of before are not replayed": (
        {"outbox": {"state": "sent", "sent_at": AT}},
        lambda session: webhooks.replay(session, "endpoint_id of ann", AT.replace(year=2027)),
        {},
    ),
    "an endpoint is paused": (
        {},
        lambda session: webhooks.close(session, ENDPOINT, 60),
        {ENDPOINT: {"closed_until": ...}},
    ),
    "an event is put off": (
        {},
        lambda session: webhooks.put_off(session, 11, 60, "error"),
        {"outbox 11": {"due_at": ..., "last_error": "error", "attempts": 8}},
    ),
    "an event is given up": (
        {},
        lambda session: webhooks.give_up(session, 11, "error"),
        {"outbox 11": {"state": "given_up", "last_error": "error", "attempts": 8}},
    ),
    "an event is accepted": (
        {},
        lambda session: webhooks.mark_sent(session, ENDPOINT, {11: "200"}),
        {
            "outbox 11": {"state": "sent", "sent_at": ..., "last_error": None, "receipt": "200", "attempts": 8},
            ENDPOINT: {"failures": 0, "failing_since": None, "last_error": None, "last_ok_at": ...},
        },
    ),
    "an event is not accepted": (
        {},
        lambda session: webhooks.note_failure(session, ENDPOINT, "error", in_a_row=True, untried_seconds=60),
        {ENDPOINT: {"failures": 8, "failing_since": ..., "last_error": "error"}},
    ),
    "a retired video is restored": (
        {"videos": {"state": "retired"}, "blobs": {"state": "retired"}, "notices": {"ended_at": AT}},
        lambda session: restorable.bring_back(session, RESTORABLE, "run", GRACE),
        {
            VIDEO: {"state": "live", "retired_at": None, "retire_reason": None, "run_id": "run"},
            "blobs 1": {
                "state": "live",
                "retired_at": None,
                "purge_after": None,
                "retire_reason": None,
                "run_id": "run",
            },
        },
    ),
    "a video that has changed is not restored": (
        {"videos": {"state": "retired", "generation": 8}, "blobs": {"state": "retired"}},
        lambda session: restorable.bring_back(session, RESTORABLE, "run", GRACE),
        {"blobs 1": {"retired_at": ..., "purge_after": ..., "retire_reason": ..., "run_id": "run"}},
    ),
    "bytes that the service had deleted are there again": (
        {"blobs": {"state": "gone", "retire_reason": "deleted by the service"}, "videos": {"state": "gone"}},
        lambda session: lost.revive(session, [1, 11], "run", GRACE),
        {
            "blobs 1": {"state": "live", "retire_reason": None, "run_id": "run"},
            "blobs 11": RETIRED | {"retire_reason": ...},
            VIDEO: {"state": "live", "run_id": "run"},
        },
    ),
    "bytes that went otherwise are there again": (
        {"blobs": {"state": "gone"}, "videos": {"state": "gone"}},
        lambda session: lost.revive(session, [1, 11], "run", GRACE),
        {},
    ),
    "a swap is undone": (
        {
            "videos": {"retired_at": None, "retire_reason": None, "run_id": "before"},
            "blobs": {"state": sa.literal_column("CASE id WHEN 21 THEN 'retired' ELSE 'live' END")},
            "notices": {"ended_at": AT},
        },
        lambda session: restorable.bring_back(
            session, RESTORABLE._replace(state="live", wanted_blob_id=21, recipe="r"), "run", GRACE
        ),
        {
            VIDEO: {
                "blob_id": 21,
                "generation": 8,
                "run_id": "run",
                "refused_recipe": "r",
                "refused_reason": ...,
                "refused_at": ...,
            },
            "blobs 21": {"state": "live", "run_id": "run"},
            "blobs 1": RETIRED | {"retire_reason": ...},
        },
    ),
    "a job goes to another vendor": (
        {"jobs": {"provider_key": None}},
        lambda session: breakers.move(session, first_job(session), "replicate", 9),
        {"jobs 1": {"lane": "replicate", "line": None, "quoted_cost_microusd": 9, "due_at": ...}},
    ),
    "a job that its vendor may have goes to no other": (
        {},
        lambda session: breakers.move(session, first_job(session), "replicate", 9),
        {},
    ),
    "a job that a worker has goes to no other vendor": (
        {"jobs": {"state": "running", "provider_key": None}},
        lambda session: breakers.move(session, first_job(session), "replicate", 9),
        {},
    ),
    "a dead worker's jobs wait again": (
        {"jobs": {"state": "running", "provider_key": None}},
        lambda session: breakers.put_back(session, ["lane of ann"]),
        {"jobs 1": {"state": "queued", "claimed_by": None, "lease_until": None}},
    ),
    "a job is claimed": (
        {},
        lambda session: claims.take(session, ["jobs 1"], "worker"),
        {"jobs 1": CLAIMED | {"attempts": 8}},
    ),
    "a job in doubt is claimed": (
        {"jobs": {"state": "parked", "started_at": None}},
        lambda session: claims.take(session, ["jobs 1"], "worker"),
        {"jobs 1": CLAIMED | {"started_at": ...}},
    ),
    "a job goes on": (
        {"jobs": {"state": "running"}},
        lambda session: claims.renew(session, [("jobs 1", 7, 0.25)]),
        {"jobs 1": {"lease_until": ..., "progress": 0.25}},
    ),
    "a job is due now": (
        {"jobs": {"due_at": AT.replace(year=2099)}},
        lambda session: claims.poll_now(session, provider_key="provider_key of ann"),
        {"jobs 1": {"due_at": ...}},
    ),
    "a vendor names a job": (
        {"jobs": {"provider_job_id": None}},
        lambda session: claims.name_sent(session, "provider_key of ann", "p"),
        {"jobs 1": {"provider_job_id": "p"}, SENT_JOB: {"vendor_id": "p"}},
    ),
    "a vendor is done": (
        {},
        lambda session: vendor_jobs.over(session, "provider_key of ann"),
        {SENT_JOB: {"ended_at": ...}},
    ),
    "a vendor was done before": (
        {"vendor_jobs": {"ended_at": AT}},
        lambda session: vendor_jobs.over(session, "provider_key of ann"),
        {},
    ),
    "a vendor did not take a job": (
        {},
        lambda session: vendor_jobs.forget(session, "provider_key of ann"),
        {SENT_JOB: None},
    ),
    "a vendor's job is over": (
        {},
        lambda session: vendor_jobs.end(session, "provider_key of ann", AT, 5, 6),
        {SENT_JOB: {"ended_at": AT, "counted_microusd": 5, "reported_microusd": 6}},
    ),
    "credits are captured": (
        {"credit_holds": {"captured_microusd": 0, "refunded_microusd": 0}},
        lambda session: credit_holds.close(session, "credit_holds 1", HoldState.CAPTURED, 5),
        {"credit_holds 1": {"state": "captured", "captured_microusd": 5, "settled_at": ...}},
    ),
    "credits are refunded": (
        {"credit_holds": {"refunded_microusd": 2}},
        lambda session: credit_holds.note_refund(session, "credit_holds 1", 3),
        {"credit_holds 1": {"refunded_microusd": 5}},
    ),
    "credits are moved": (
        {},
        lambda session: ledger.move(session, {"user/ann": -5, "held/ann": 5}),
        {"accounts user/ann": {"balance_microusd": 2}, "accounts held/ann": {"balance_microusd": 12}},
    ),
    "reserved bytes are settled": (
        {},
        lambda session: quotas.end(session, "reservations 1", ReservationState.SETTLED),
        {"reservations 1": {"state": "settled", "settled_at": ...}},
    ),
    "reserved bytes are released": (
        {},
        lambda session: quotas.take_back(session, "ann", 5),
        {"storage_accounts ann": {"reserved_bytes": 2}},
    ),
    "bytes are stored": (
        {},
        lambda session: quotas.adjust(session, {"ann": 3}),
        {"storage_accounts ann": {"used_bytes": 10}},
    ),
    "a user gets a quota": (
        {},
        lambda session: quotas.set_quota(session, "ann", 9),
        {"storage_accounts ann": {"quota_bytes": 9}},
    ),
    "a scope's refusals are over": (
        {},
        lambda session: job_totals.forget_refusals(session, "user:ann", "period"),
        {"job_totals period user:ann": {"refusals": 0}},
    ),
    "a scope's jobs are recounted": (
        {"job_totals": {"period": ""}},
        lambda session: job_totals.write_in_flight(session, "user:ann", "milliseconds", 9),
        {"job_totals  user:ann": {"milliseconds": 9}},
    ),
}


def rows(session: Session) -> Iterator[tuple[str, dict[str, Any]]]:
    for table in SQLModel.metadata.sorted_tables:
        for row in session.execute(sa.select(table)).mappings():
            key = " ".join(str(row[column.name]) for column in table.primary_key)
            yield key if key.startswith(table.name) else f"{table.name} {key}", dict(row)


@contextmanager
def ready(engine: sa.Engine, setup: Setup) -> Iterator[Session]:
    with transaction(engine, "test") as session:
        for number, name in ((1, "ann"), (2, "bob")):
            copy = {"video_id": f"videos of {name}", "key": f"{name}/aside", "state": "pending", "etag": "copied"}
            session.execute(sa.insert(blobs).values(id=20 + number, size_bytes=7, is_ours=True, **copy))
        set_values(session, setup)
        yield session


@pytest.mark.parametrize("what", CASES)
def test_a_write_changes_this_and_nothing_else(filled_engine: sa.Engine, what: str) -> None:
    setup, write, expected = CASES[what]
    with ready(filled_engine, setup) as session:
        before = dict(rows(session))
        write(session)
        after = dict(rows(session))
    found: Changes = {
        key: {name: value for name, value in after[key].items() if value != before.get(key, {}).get(name)}
        if key in after
        else None
        for key in before | after
        if after.get(key) != before.get(key)
    }
    assert found.keys() == expected.keys()
    for key, columns in expected.items():
        changed = found[key]
        assert changed == columns if columns is None or changed is None else matches(changed, columns), (key, changed)


def matches(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare columns; of those with ... any value has come."""
    any_value = {name for name, value in expected.items() if isinstance(value, EllipsisType)}
    return {name: ... if name in any_value else value for name, value in found.items()} == expected


ONCE: Final = (
    "a hold ends",
    "a job is due now",
    "a snooze is ended",
    "a swap is published",
    "a swap is refused",
    "a video points at its new bytes",
    "an alert is acknowledged",
    "an endpoint is removed",
    "credits are captured",
    "reserved bytes are settled",
    "a retired video is restored",
    "a claim is taken back",
)


@pytest.mark.parametrize("what", ONCE)
def test_a_write_says_whether_it_has_changed_anything(filled_engine: sa.Engine, what: str) -> None:
    setup, write, _ = CASES[what]
    with ready(filled_engine, setup) as session:
        assert (bool(write(session)), bool(write(session))) == (True, False)
