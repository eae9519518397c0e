"""Objects without a row: adopt those that the scan has chosen, and sweep our own leftovers.

No object is changed here. Each batch is a transaction of its own and can be repeated.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync.survey import Survey
from reelkeeper.operations.videos.overwrites import taken_down_again
from reelkeeper.rules.sync.adoption import REASONS
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import noted
from reelkeeper.store.sync import orphans as rows
from reelkeeper.store.sync.noted import Noted
from reelkeeper.store.sync.orphans import Standing

ORPHAN_MIN_AGE = timedelta(hours=48)  # longer than any upload or presigned PUT that may still be under way
ORPHAN_MIN_WATCH = timedelta(hours=24)  # between the first and the last scan that saw it
_BATCH = 500


def adopt(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str) -> tuple[int, int]:
    """Make videos of the objects that the scan adopts; returns how many, and how many lost videos were taken back.

    Everything is checked again in the transaction: an object that got a row in the meantime is skipped. An adopted
    video's tier and views are unknown, and unknown keeps.
    """
    adopted = taken_back = 0
    for batch in _batches(workspace, survey, AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK):
        with transaction(workspace.engine, "sync.adopt") as session:
            # guard adopt.permission: while frozen, or with its lease lost, a run adopts
            require_permission(session, lease)
            standing = rows.standing(session, [alert.video_id for alert in batch])
            known = rows.known_keys(session, [alert.key for alert in batch])
            # guard adopt.unknown_keys: one object becomes two rows, and the purge of one deletes the other's
            unknown = [alert for alert in batch if alert.key not in known]
            new = _first_of_each([alert for alert in unknown if alert.video_id not in standing])
            back = [alert for alert in unknown if _supersedes(alert, standing.get(alert.video_id), VideoState.LOST)]
            rows.insert_videos(session, new)
            blob_ids = rows.insert_blobs(session, new + back, state=BlobState.LIVE, run_id=run_id)
            with quotas.counted(session, [alert.video_id for alert in new + back]):
                rows.publish(session, new + back, blob_ids, run_id)
                # guard takedown.adopted: the service stores at another key what was taken down, and it is live
                blocked = takedowns.find_blocked(session, list(blob_ids.values()))
                takedowns.mark(session, list(blocked), run_id)
            noted.forget(session, [alert.key for alert in new + back] + sorted(known))
            append(session, [_event("adopt", alert, blob_ids, run_id) for alert in new])
            append(session, [_event("take_back", alert, blob_ids, run_id) for alert in back])
            append(session, [taken_down_again(video_id, blob_id, run_id) for video_id, blob_id in blocked.items()])
        adopted += len(new)
        taken_back += len(back)
    return adopted, taken_back


def sweep(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str, grace: Grace) -> int:
    """Retire orphans of our own making; returns how many.

    Only keys in our own format, of no newer generation than the live video's, older than 48 h, and seen in scans at
    least 24 h apart. A newer generation than the catalogue's means that the catalogue is old: never swept.
    """
    swept = 0
    old = survey.started_at - ORPHAN_MIN_AGE
    # guard sweep.old_enough: an upload that is under way is swept
    for batch in _batches(workspace, survey, AdoptionVerdict.LEFTOVER, modified_by=old):
        # guard sweep.watched: what one scan has seen once is swept
        watched = [alert for alert in batch if alert.first_seen_at <= alert.last_seen_at - ORPHAN_MIN_WATCH]
        with transaction(workspace.engine, "sync.sweep") as session:
            # guard sweep.permission: while frozen, or with its lease lost, a run sweeps
            require_permission(session, lease)
            standing = rows.standing(session, [alert.video_id for alert in watched])
            known = rows.known_keys(session, [alert.key for alert in watched])
            doomed = [
                # guard sweep.unknown_keys: what a row stands for by now is swept
                alert
                for alert in watched
                if alert.key not in known and _is_behind(alert, standing.get(alert.video_id))
            ]
            blob_ids = rows.insert_blobs(session, doomed, state=BlobState.RETIRED, run_id=run_id)
            rows.begin_grace(session, list(blob_ids.values()), grace)
            noted.forget(session, [alert.key for alert in doomed])
            append(session, [_event("orphan", alert, blob_ids, run_id) for alert in doomed])
        swept += len(doomed)
    return swept


def tell(workspace: Workspace, survey: Survey) -> tuple[int, tuple[str, ...]]:
    """Count doubtful objects that no earlier run has reported, and name the first few with the reason."""
    with transaction(workspace.engine, "sync.tell") as session:
        count, first = noted.tell(session, survey.scan_id, now(session))
    return count, tuple(f"{key}: {REASONS[verdict]}" for key, verdict in first)


def _batches(
    workspace: Workspace, survey: Survey, *verdicts: AdoptionVerdict, modified_by: datetime | None = None
) -> Iterator[list[Noted]]:
    after = ""
    while True:
        with reading(workspace.engine) as session:
            batch = noted.batch(session, survey.scan_id, verdicts, after, _BATCH, modified_by=modified_by)
        if not batch:
            return
        yield batch
        after = batch[-1].key


def _first_of_each(new: Sequence[Noted]) -> list[Noted]:
    """Leave out a second note of one video, which a concurrent scan may have made."""
    return list({alert.video_id: alert for alert in reversed(new)}.values())


def _supersedes(alert: Noted, known: Standing | None, state: VideoState) -> bool:
    return (
        known is not None
        # guard adopt.lost_only: a live video is moved to other bytes
        and known.state == state
        # guard adopt.own_video: somebody's object becomes the video of another user
        and known.user_id == alert.user_id
        # guard adopt.newer_generation: a lost video is taken back to bytes older than those it had
        and (alert.generation or 0) > known.generation
    )


def _is_behind(alert: Noted, known: Standing | None) -> bool:
    return (
        known is not None
        # guard sweep.live_video: what is left of a lost video is swept
        and known.state == VideoState.LIVE
        # guard sweep.own_video: an object is swept because another user has a video of that name
        and known.user_id == alert.user_id
        # guard sweep.generation: bytes newer than an old catalogue knows are swept
        and (alert.generation or 0) <= known.generation
    )


def _event(event: str, alert: Noted, blob_ids: dict[str, int], run_id: str) -> Event:
    detail = {"key": alert.key, "bytes": alert.size_bytes}
    return Event(event, run_id, alert.video_id, blob_ids[alert.key], alert.user_id, detail)
