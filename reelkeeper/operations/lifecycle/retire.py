"""Retire videos: the first, reversible phase of a deletion. Only the store changes; the bytes wait out a grace."""

from collections.abc import Sequence
from functools import partial

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import Action, Grace, Outcome
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force, replaced_since
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.outcomes import each_recorded, judged_again, stays
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


def retire(
    workspace: Workspace, plan_id: str, video_ids: Sequence[str], *, lease: Lease, run_id: str, grace: Grace
) -> list[Outcome]:
    """Retire those of `video_ids` that are still as the plan saw them; the others are skipped, with the reason.

    One transaction for the batch (of at most some hundred videos). Safe to repeat: a retired video stays retired. A
    video with an inconsistent row fails; where another makes the batch fail, each half is tried, down to that one.
    Raises Frozen or LeaseLost before the first change.
    """
    act = partial(_retire_batch, workspace, plan_id, lease=lease, run_id=run_id, grace=grace)
    return each_recorded(workspace.engine, plan_id, video_ids, act, (Action.RETIRE,), "retiring video")


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

    None where other policies were applied since it began: the next plan judges by those.
    """
    rules = {row.video_id: row.rule for row in planned}
    under = plan_progress.undertaking(session, plan_id)
    if "policy" not in under.terms:
        return list(rules)
    # guard retire.replaced: a run goes on retiring videos after policies were applied that keep them
    if replaced_since(session, under.begun_at, ("policy", "tiers")):
        return []
    return [
        verdict.video.id
        for verdict in judged_again(session, list(rules), *terms_of(under.terms), under.as_of)
        if verdict.action is Action.RETIRE and verdict.rule == rules[verdict.video.id]
    ]


def _outcome(row: Planned, done: bool, broken: str | None) -> Outcome:
    if broken:
        return stays(row, "failed", broken)
    if done:
        return Outcome(row.video_id, "retired", row.reason, row.size_bytes, 0, row.blob_id)
    why = (
        "viewed, held, kept, replaced or retired since the plan, no longer due by its tier, age, tag or views, its "
        "notice is no longer in force, other policies were applied, or the bucket has "
        "not passed the contract test: reelkeeper doctor --contract"
    )
    return stays(row, "skipped", why)
