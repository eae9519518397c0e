"""Adopt the objects without a row that a scan has chosen, and sweep our own leftovers.

No object is changed here. Each batch is its own transaction and can be repeated.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import MAX_SKEW_FROM_BUCKET, Workspace
from reelkeeper.operations.sync.survey import Survey
from reelkeeper.operations.videos.overwrites import taken_down_again
from reelkeeper.redaction import unnamed
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.sync.adoption import REASONS
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import noted
from reelkeeper.store.sync import orphans as rows
from reelkeeper.store.sync.noted import Noted
from reelkeeper.store.sync.orphans import NamedVideo
from reelkeeper.store.videos import uploads

ORPHAN_MIN_AGE = timedelta(hours=48)  # longer than any upload or presigned PUT that may still be under way
ORPHAN_MIN_WATCH = timedelta(hours=24)  # between the first and the last scan that saw it
_BATCH = 500


def adopt(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str) -> tuple[int, int]:
    """Make videos of the objects that the scan adopts; returns how many, and how many lost videos were taken back.

    Everything is checked again in the transaction: an object that has a row by then is skipped. An adopted
    video's tier and views are unknown, so it is kept.
    """
    adopted = taken_back = 0
    for batch in _batches(workspace, survey, AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK):
        with transaction(workspace.engine, "sync.adopt") as session:
            # guard adopt.permission: a run adopts objects during a freeze, or without its lease
            require_permission(session, lease)
            standing = rows.named_videos(session, [note.video_id for note in batch])
            known = rows.known_keys(session, [note.key for note in batch])
            # guard adopt.unknown_keys: an object gets two rows, and purging one deletes the other's bytes
            unknown = [note for note in batch if note.key not in known]
            new = _first_of_each([note for note in unknown if _is_new(note, standing.get(note.video_id))])
            back = [note for note in unknown if _supersedes(note, standing.get(note.video_id), VideoState.LOST)]
            rows.insert_videos(session, [note for note in new if note.video_id not in standing])
            for note in new:
                if note.video_id in standing:
                    uploads.make_pending(session, note.video_id, created_at=note.created_at or note.last_modified)
            blob_ids = rows.insert_blobs(session, new + back, state=BlobState.LIVE, run_id=run_id)
            with quotas.counted(session, [note.video_id for note in new + back]):
                rows.publish(session, new + back, blob_ids, run_id)
                # guard takedown.adopted: the service stores bytes that were taken down at another key, and they go live
                blocked = takedowns.find_blocked(session, list(blob_ids.values()))
                takedowns.mark(session, list(blocked), run_id)
            noted.forget(session, [note.key for note in new + back] + sorted(known))
            append(session, [_event("adopt", note, blob_ids, run_id) for note in new])
            append(session, [_event("take_back", note, blob_ids, run_id) for note in back])
            append(session, [taken_down_again(video_id, blob_id, run_id) for video_id, blob_id in blocked.items()])
        adopted += len(new)
        taken_back += len(back)
    return adopted, taken_back


def sweep(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str, grace: Grace) -> int:
    """Retire orphans that Reelkeeper made; returns how many.

    Only keys in our own format, of no newer generation than the live video's, older than 48 h, and seen in scans at
    least 24 h apart. A newer generation than the catalogue's means that the catalogue is old, and is never swept.
    """
    swept = 0
    old = survey.started_at - ORPHAN_MIN_AGE
    # guard sweep.old_enough: an upload that is under way is swept
    for batch in _batches(workspace, survey, AdoptionVerdict.LEFTOVER, modified_by=old):
        # guard sweep.watched: an object that only one scan has seen is swept
        watched = [note for note in batch if note.first_seen_at <= note.last_seen_at - ORPHAN_MIN_WATCH]
        with transaction(workspace.engine, "sync.sweep") as session:
            # guard sweep.permission: a run sweeps objects during a freeze, or without its lease
            require_permission(session, lease)
            standing = rows.named_videos(session, [note.video_id for note in watched])
            known = rows.known_keys(session, [note.key for note in watched])
            recorded = rows.recorded_generations(session, watched, MAX_SKEW_FROM_BUCKET)
            doomed = [
                # guard sweep.unknown_keys: an object that has a row by then is swept
                note
                for note in watched
                if note.key not in known and _is_behind(note, standing.get(note.video_id), recorded[note.key])
            ]
            blob_ids = rows.insert_blobs(session, doomed, state=BlobState.RETIRED, run_id=run_id)
            rows.begin_grace(session, list(blob_ids.values()), grace)
            noted.forget(session, [note.key for note in doomed])
            append(session, [_event("orphan", note, blob_ids, run_id) for note in doomed])
        swept += len(doomed)
    return swept


def tell(workspace: Workspace, survey: Survey) -> tuple[int, tuple[str, ...]]:
    """Tell people once of doubtful objects; count those that are new, and name the first few with the reason."""
    with transaction(workspace.engine, "sync.tell") as session:
        count, first = noted.tell(session, survey.scan_id, now(session))
        named = tuple(f"{key}: {REASONS[verdict]}" for key, verdict in first)
        if count:
            text = "\n".join([*map(unnamed, named), "All that stays out: reelkeeper run sync_catalog"])
            alerts.post(session, f"{many(count, 'unclear object')} stayed out of the catalogue", text)
    return count, named


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
    return list({note.video_id: note for note in reversed(new)}.values())


def _is_new(note: Noted, known: NamedVideo | None) -> bool:
    return known is None or (known.never_came and known.user_id == note.user_id)


def _supersedes(note: Noted, known: NamedVideo | None, state: VideoState) -> bool:
    return (
        known is not None
        # guard adopt.lost_only: a live video is moved to other bytes
        and known.state == state
        # guard adopt.own_video: one user's object becomes another user's video
        and known.user_id == note.user_id
        # guard adopt.newer_generation: a lost video is taken back with older bytes than it had
        and (note.generation or 0) > known.generation
    )


def _is_behind(note: Noted, known: NamedVideo | None, recorded: int) -> bool:
    return (
        known is not None
        # guard sweep.live_video: the remaining bytes of a lost video are swept
        and known.state == VideoState.LIVE
        # guard sweep.own_video: an object is swept because another user has a video of that id
        and known.user_id == note.user_id
        # guard sweep.generation: bytes newer than an old catalogue are swept
        and (note.generation or 0) <= known.generation
        # guard sweep.recorded: an upload is swept whose generation an old catalogue has reached since, by a swap
        and (note.generation or 0) <= recorded
    )


def _event(event: str, note: Noted, blob_ids: dict[str, int], run_id: str) -> Event:
    detail = {"key": note.key, "bytes": note.size_bytes}
    return Event(event, run_id, note.video_id, blob_ids[note.key], note.user_id, detail)
