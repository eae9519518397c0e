"""Retire videos: the first, reversible phase of a deletion. Only the store changes; the bytes wait out a grace."""

import logging
from collections.abc import Sequence

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import Action, Grace, Outcome
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.operations.core.policies import in_force, replaced_since
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.rules.lifecycle import lifecycle
from reelkeeper.rules.policies import terms_of
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices, plan_progress, retirements
from reelkeeper.store.lifecycle.plans import record_outcomes
from reelkeeper.store.lifecycle.retirements import Planned
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.videos import live_videos

_log = logging.getLogger(__name__)


def retire(
    workspace: Workspace, plan_id: str, video_ids: Sequence[str], *, lease: Lease, run_id: str, grace: Grace
) -> list[Outcome]:
    """Retire those of `video_ids` that are still as the plan saw them; the others are skipped, with the reason.

    One transaction for the batch (of at most some hundred videos). Safe to repeat: a retired video stays retired. A
    video with an inconsistent row fails; where another makes the batch fail, each half is tried, down to that one.
    Raises Frozen or LeaseLost before the first change.
    """
    outcomes: list[Outcome] = []

    def act(some: Sequence[str]) -> None:
        outcomes.extend(_retire_batch(workspace, plan_id, some, lease=lease, run_id=run_id, grace=grace))

    def failed(some: Sequence[str], error: Exception) -> None:
        _log.error("retiring video %s failed; the others were processed: %s", ", ".join(some), error, exc_info=error)
        with transaction(workspace.engine, "retire.failed") as session:
            planned = retirements.planned(session, plan_id, some)
            why = f"{type(error).__name__}: {error}"
            broken = [
                Outcome(row.video_id, "failed", why, row.size_bytes, row.size_bytes, row.blob_id) for row in planned
            ]
            record_outcomes(session, plan_id, broken)
        outcomes.extend(broken)

    each_apart(video_ids, act, failed)
    return outcomes


def _retire_batch(
    workspace: Workspace, plan_id: str, video_ids: Sequence[str], *, lease: Lease, run_id: str, grace: Grace
) -> list[Outcome]:
    with transaction(workspace.engine, "retire") as session:
        # guard retire.permission: a run retires videos during a freeze, or without its lease
        require_permission(session, lease)
        at = now(session)
        planned = retirements.planned(session, plan_id, video_ids)
        # guard retire.again: a video is retired whose user has paid for a higher tier since the plan
        due = _still_due(session, plan_id, planned)
        with quotas.counted(session, video_ids):
            # The policies in force, not the plan's: a run's exception must not break what users were promised.
            promised = in_force(session).policies.tiers.notice_days()
            gone = retirements.retire_videos(
                session, plan_id, due, run_id, promised, service_keys=workspace.keeps_contract
            )
        notices.end(session, list(gone), "retired")
        # guard retire.cache: a repeated request gets a retired video from the cache
        cache.drop(session, list(gone))
        blobs_retired = retirements.retire_blobs(session, list(gone.values()), at, run_id=run_id, grace=grace)
        # guard retire.whole: a video is retired although its bytes are not live
        if blobs_retired != len(gone):
            raise IntegrityDoubt(
                f"{len(gone)} live videos have only {blobs_retired} live blobs; nothing in this batch was changed"
            )
        broken = retirements.broken(session, video_ids)
        outcomes = [_outcome(row, row.video_id in gone, broken.get(row.video_id)) for row in planned]
        record_outcomes(session, plan_id, outcomes)
        record(
            session,
            [
                Event("retire", run_id, row.video_id, row.blob_id, row.user_id, {"plan": plan_id, "why": row.reason})
                for row in planned
                if row.video_id in gone
            ],
        )
        return outcomes


def _still_due(session: Session, plan_id: str, planned: Sequence[Planned]) -> list[str]:
    """Judge the videos again, by the plan's own policies as of its time; return those that its rule still retires.

    A user's tier, a video's age and tag, and views of earlier days may have been recorded since. None where other
    policies were applied since it began: the next plan judges by those.
    """
    rules = {row.video_id: row.rule for row in planned}
    under = plan_progress.undertaking(session, plan_id)
    if "policy" not in under.terms:
        return list(rules)
    # guard retire.replaced: a run goes on retiring videos after policies were applied that keep them
    if replaced_since(session, under.begun_at, ("policy", "tiers")):
        return []
    policy, tiers = terms_of(under.terms)
    videos = live_videos(session, under.as_of, only=list(rules), classified=bool(policy.segments))
    judged = lifecycle.verdicts(videos, policy, tiers, under.as_of, recipe_fingerprint="")
    return [
        verdict.video.id
        for verdict in judged
        if verdict.action is Action.RETIRE and verdict.rule == rules[verdict.video.id]
    ]


def _outcome(row: Planned, done: bool, broken: str | None) -> Outcome:
    if broken:
        return Outcome(row.video_id, "failed", broken, row.size_bytes, row.size_bytes, row.blob_id)
    if done:
        return Outcome(row.video_id, "retired", row.reason, row.size_bytes, 0, row.blob_id)
    why = (
        "viewed, held, kept, replaced or retired since the plan, no longer due by its tier, age, tag or views, its "
        "notice is no longer in force, other policies were applied, or the bucket has "
        "not passed the contract test: reelkeeper doctor --contract"
    )
    return Outcome(row.video_id, "skipped", why, row.size_bytes, row.size_bytes, row.blob_id)
