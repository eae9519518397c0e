"""Notify the service, days ahead, which videos a plan will retire, and raise alerts where that fails.

A notice, its messages in the outbox and its audit row are one transaction, and a video has one notice at a time, so a
killed or repeated run sends none twice. The plan's verdicts are checked again, as in every change.
"""

import logging
from collections.abc import Collection, Sequence

from reelkeeper.model import Action, Outcome, PlanSummary, Verdict
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import alerts, events
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.rules.alerts.webhooks import NOT_DELIVERED
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle import lifecycle
from reelkeeper.rules.lifecycle import notices as rules
from reelkeeper.rules.lifecycle.notices import Expiry, Given
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices, retirements
from reelkeeper.store.lifecycle.notices import NewNotice
from reelkeeper.store.lifecycle.plans import record_outcomes
from reelkeeper.store.lifecycle.retirements import Planned
from reelkeeper.store.videos.videos import live_videos

_ACTIONS = (Action.NOTIFY, Action.WITHDRAW)
_NOT_SO = "no longer due: announced, kept, viewed or held since the plan"
_log = logging.getLogger(__name__)


def given(engine: Engine) -> Given:
    """Read the notices in force, and whether any endpoint subscribes to new ones."""
    with reading(engine) as session:
        return _given(session)


def carry_out(
    engine: Engine, plan_id: str, video_ids: Sequence[str], policies: Policies, *, lease: Lease, run_id: str
) -> list[Outcome]:
    """Give, or end, the notices of `video_ids` where the plan still applies; the others are skipped.

    One transaction for the batch (of at most some hundred videos); where one video makes it fail, each half is tried,
    down to that one. Raises Frozen or LeaseLost before the first change.
    """
    outcomes: list[Outcome] = []

    def act(some: Sequence[str]) -> None:
        outcomes.extend(_carry_out_batch(engine, plan_id, some, policies, lease=lease, run_id=run_id))

    def failed(some: Sequence[str], error: Exception) -> None:
        _log.error("notice for video %s failed; the others were processed: %s", ", ".join(some), error, exc_info=error)
        with transaction(engine, "notices.failed") as session:
            planned = retirements.planned(session, plan_id, some, _ACTIONS)
            broken = [_outcome(row, "failed", f"{type(error).__name__}: {error}") for row in planned]
            record_outcomes(session, plan_id, broken)
        outcomes.extend(broken)

    each_apart(video_ids, act, failed)
    return outcomes


def _carry_out_batch(
    engine: Engine, plan_id: str, video_ids: Sequence[str], policies: Policies, *, lease: Lease, run_id: str
) -> list[Outcome]:
    with transaction(engine, "notices") as session:
        # guard notices.permission: a run gives notices during a freeze, or without its lease
        require_permission(session, lease)
        judged = _judge_again(session, video_ids, policies)
        lapsed = [verdict.video.id for verdict in judged if verdict.action is Action.WITHDRAW]
        notices.end(session, lapsed, "lapsed")
        given = _give(
            session, [verdict for verdict in judged if verdict.action is Action.NOTIFY], policies.tiers, run_id
        )
        done = dict.fromkeys(lapsed, "withdrawn") | dict.fromkeys(given, "notified")
        planned = retirements.planned(session, plan_id, video_ids, _ACTIONS)
        outcomes = [
            _outcome(row, done.get(row.video_id, "skipped"), row.reason if row.video_id in done else _NOT_SO)
            for row in planned
        ]
        record_outcomes(session, plan_id, outcomes)
        append(session, [_audited(row, done[row.video_id], plan_id, run_id) for row in planned if row.video_id in done])
        return outcomes


def _judge_again(session: Session, video_ids: Sequence[str], policies: Policies) -> list[Verdict]:
    at, policy, tiers = now(session), policies.lifecycle, policies.tiers
    # guard notices.again: the service gets notice for a video that was kept, viewed or held since the plan
    judged = lifecycle.verdicts(live_videos(session, at, only=video_ids), policy, tiers, at, recipe_fingerprint="")
    return list(rules.with_notices(judged, policy, tiers, at, _given(session, video_ids)))


def _give(session: Session, due: Sequence[Verdict], tiers: Tiers, run_id: str) -> Collection[str]:
    """Write the notices of these verdicts and their messages; return the videos that had none in force."""
    wanted = [(verdict, expiry) for verdict in due for expiry in verdict.figures if isinstance(expiry, Expiry)]
    new = notices.give(
        session,
        [
            NewNotice(verdict.video.id, verdict.video.tier or "", expiry.days, verdict.rule, expiry.at)
            for verdict, expiry in wanted
        ],
        run_id,
    )
    keep_days = {name: tier.keep_days for name, tier in tiers.items()}
    payloads = {
        verdict.video.id: {
            "reason": rules.reason(verdict),
            "expires_at": expiry.at.isoformat(),
            "notice_days": expiry.days,
            "keep_days": keep_days.get(verdict.video.tier or "", 0),
        }
        for verdict, expiry in wanted
        if verdict.video.id in new
    }
    messages = events.expiring(session, payloads)
    notices.sent(session, [(new[video_id], endpoint_id, message_id) for video_id, endpoint_id, message_id in messages])
    return new


def tell_of_waiting(engine: Engine, plan: PlanSummary, run_id: str) -> None:
    """Raise or resolve alerts: due videos without a subscribed endpoint, and endpoints that do not accept notices."""
    with transaction(engine, "notices.waiting") as session:
        kept = plan.kept.get(rules.NO_ENDPOINT, 0)
        found = [rules.no_endpoint(plan.flow, kept)] if kept else []
        # guard notices.unheard_told: retirements stop because no endpoint subscribes to notices, and nobody knows
        alerts.observe_within(session, found, rules=[rules.NO_ENDPOINT], scope=plan.flow, run_id=run_id)
        at = now(session)
        late = [rules.late(*item) for item in notices.undelivered(session) if at - item.since >= rules.LATE_AFTER]
        # guard notices.late_told: retirements stop because an endpoint accepts no notices, and nobody knows
        alerts.observe_within(session, late, rules=[NOT_DELIVERED], run_id=run_id)


def _given(session: Session, video_ids: Sequence[str] | None = None) -> Given:
    return Given(notices.standing(session, video_ids), webhooks.has_subscriber(session, EventType.VIDEO_EXPIRING))


def _outcome(row: Planned, action: str, why: str) -> Outcome:
    return Outcome(row.video_id, action, why, row.size_bytes, row.size_bytes, row.blob_id)


def _audited(row: Planned, action: str, plan_id: str, run_id: str) -> Event:
    name = "notice" if action == "notified" else "notice_end"
    return Event(name, run_id, row.video_id, row.blob_id, row.user_id, {"plan": plan_id, "why": row.reason})
