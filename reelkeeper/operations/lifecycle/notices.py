"""Notify the service, days ahead, which videos a plan will retire; keep a video longer on its user's request.

A notice, its messages in the outbox and its audit row are one transaction, and a video has one notice at a time, so a
killed or repeated run sends none twice. The plan's verdicts are checked again, as in every change.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial

from reelkeeper.errors import KeepRefused, NotFound
from reelkeeper.model import Action, Outcome, PlanSummary, Verdict, VideoState
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import alerts, events
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.lifecycle.outcomes import each_recorded, judged_again, stays
from reelkeeper.rules.alerts.webhooks import NOT_DELIVERED
from reelkeeper.rules.billing.credits import fingerprint
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle import notices as rules
from reelkeeper.rules.lifecycle.notices import Expiry, Given
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices, retirements
from reelkeeper.store.lifecycle.notices import Kept, NewNotice
from reelkeeper.store.lifecycle.plans import record_outcomes
from reelkeeper.store.lifecycle.retirements import Planned
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.videos import Listed, list_videos

_ACTIONS = (Action.NOTIFY, Action.WITHDRAW)
_NOT_SO = "no longer due: announced, kept, viewed or held since the plan"


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
    act = partial(_carry_out_batch, engine, plan_id, policies=policies, lease=lease, run_id=run_id)
    return each_recorded(engine, plan_id, video_ids, act, _ACTIONS, "notice for video")


def _carry_out_batch(
    engine: Engine, plan_id: str, video_ids: Sequence[str], *, policies: Policies, lease: Lease, run_id: str
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
            stays(row, done.get(row.video_id, "skipped"), row.reason if row.video_id in done else _NOT_SO)
            for row in planned
        ]
        record_outcomes(session, plan_id, outcomes)
        append(session, [_audited(row, done[row.video_id], plan_id, run_id) for row in planned if row.video_id in done])
        return outcomes


def _judge_again(session: Session, video_ids: Sequence[str], policies: Policies) -> list[Verdict]:
    at, policy, tiers = now(session), policies.lifecycle, policies.tiers
    # guard notices.again: the service gets notice for a video that was kept, viewed or held since the plan
    judged = judged_again(session, video_ids, policy, tiers, at)
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


@safe_to_repeat
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


def _audited(row: Planned, action: str, plan_id: str, run_id: str) -> Event:
    name = "notice" if action == "notified" else "notice_end"
    return Event(name, run_id, row.video_id, row.blob_id, row.user_id, {"plan": plan_id, "why": row.reason})


def keep(engine: Engine, video_id: str, *, by: str, key: str, user_id: str | None = None) -> Kept:
    """Keep a video on its user's request: from its due date, or from now where it has none. Once for each `key`.

    It is weaker than a hold: it ends by itself, and the user or a takedown may still delete the video. A freeze does
    not stop it, as it deletes nothing.
    It ends a notice of retirement. `user_id`: only if the video is this user's. Raises NotFound for a video unknown,
    gone, or another user's; KeepRefused where its tier does not offer this, no prolongation is left, or the video is
    not live.
    """
    keep_id = fingerprint(key=key, video=video_id)[:32]
    from reelkeeper.operations.lifecycle.why import outlooks  # noqa: PLC0415  a plan needs no client of the bucket

    with transaction(engine, "keep") as session:
        deployment.lock(session)
        known = uploads.current(session, video_id, locked=True)
        # guard keep.own_video: a user keeps another user's video
        if known is None or known.state == VideoState.GONE or user_id not in (None, known.user_id):
            raise NotFound.for_user("video", video_id, user_id)
        # guard keep.once: a repeated request prolongs a video twice
        if (before := notices.find_keep(session, keep_id)) is not None:
            replays.note()
            return before
        (listed,) = list_videos(session, video_id=video_id)
        times = notices.times_kept(session, video_id)
        days = _days(listed, in_force(session).policies, times)
        (outlook,) = outlooks(session, [listed])
        at = now(session)
        until = max(at, outlook.expires_at or at) + timedelta(days=days)
        notices.add_keep(session, keep_id, video_id, days=days, until=until, author=by)
        # guard keep.notice: a kept video is later retired by its earlier notice
        notices.end(session, [video_id], "kept on request")
        detail = {"until": until.isoformat(), "days": days, "times": times + 1}
        append(session, [Event("keep", by, video_id, known.blob_id, known.user_id, detail)])
        return Kept(video_id, until, times + 1)


def _days(video: Listed, policies: Policies, times: int) -> int:
    if video.state != VideoState.LIVE:
        raise KeepRefused(
            f"video {video.id!r} is {video.state}: only a live video can be kept longer. An operator may be able to "
            "restore it"
        )
    tier = policies.tiers.get(video.tier)
    days = tier.keep_days if tier else 0
    if not days:
        raise KeepRefused(f"the tier {video.tier or 'unknown'} does not keep videos longer on request")
    # guard keep.times: repeated requests keep a video for ever
    if times >= policies.lifecycle.keep_times:
        raise KeepRefused(f"video {video.id!r} was already kept longer {many(times, 'time')}, which is the limit")
    return days
