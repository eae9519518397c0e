"""Update the catalogue to match the bucket, after `survey` has compared them and the guard has agreed.

    lose      mark rows whose objects are missing; never delete them
    mend      record objects that the service has overwritten, or that came back, as they are now
    finish    close the scan

`orphans` has the steps for objects without a row. No object is changed in either; each step can be repeated.
"""

from collections.abc import Sequence

from reelkeeper.model import Grace
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync.survey import Survey
from reelkeeper.operations.videos import overwrites
from reelkeeper.operations.videos.doubts import look_into
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import doubts
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import lost, scans
from reelkeeper.store.sync.scans import SERVICE_DELETE
from reelkeeper.store.videos import cache

_BATCH = 500


def lose(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str) -> int:
    """Mark the missing blobs, and their videos, as lost; return how many videos."""
    lost_videos = 0
    for start in range(0, len(survey.missing), _BATCH):
        with transaction(workspace.engine, "sync.lose") as session:
            # guard sync.lose_permission: a run marks videos as lost during a freeze, or without its lease
            require_permission(session, lease)
            lost_videos += overwrites.lose(session, survey.missing[start : start + _BATCH], run_id)
    return lost_videos


def record_deletions(workspace: Workspace, blob_ids: Sequence[int], *, lease: Lease, run_id: str) -> set[int]:
    """Record that the service has deleted the objects of these blobs; return the blobs, without held ones."""
    with transaction(workspace.engine, "sync.record_deletions") as session:
        # guard events.delete_permission: a worker marks videos as deleted during a freeze, or without its lease
        require_permission(session, lease)
        with quotas.counted(session, standing_on=blob_ids):
            gone = lost.mark_deleted(session, blob_ids, run_id)
        # guard events.delete_cache: a repeated request gets a video that the service deleted from the cache
        cache.drop(session, [row.video_id for row in gone if row.video_id is not None])
        append(
            session, [Event(SERVICE_DELETE, run_id, row.video_id, row.blob_id, None, {"key": row.key}) for row in gone]
        )
    return {row.blob_id for row in gone}


def name_lost(workspace: Workspace, run_id: str, limit: int) -> tuple[int, tuple[str, ...]]:
    """Count the videos that a run has marked as lost, and list the first."""
    with reading(workspace.engine) as session:
        marked = lost.videos_of_run(session, run_id)
    return len(marked), tuple(marked[:limit])


def mend(workspace: Workspace, survey: Survey, *, lease: Lease, run_id: str, grace: Grace) -> list[str]:
    """Record the objects that are stored now at known keys; return the keys in doubt.

    Other bytes at a key of the service's are an upload, and become their video's. Where a purge has claimed the blob
    meanwhile, they are in doubt until its claim ends. A key of ours is written once: other bytes there are in
    doubt, and left as they are, unless they are the recorded ones under another ETag. An object that exists after its
    purge is retired again; one of a lost video makes it live again.
    """
    for start in range(0, len(survey.overwritten), _BATCH):
        with transaction(workspace.engine, "sync.take_uploads") as session:
            # guard sync.take_permission: a run records uploads during a freeze, or without its lease
            require_permission(session, lease)
            overwrites.take_uploads(session, survey.overwritten[start : start + _BATCH], run_id=run_id, grace=grace)
    doubtful = look_into(workspace, {stored.key: stored for _, stored in survey.doubtful}, run_id=run_id, lease=lease)
    with transaction(workspace.engine, "sync.mend") as session:
        # guard sync.mend_permission: a run retires and revives videos during a freeze, or without its lease
        require_permission(session, lease)
        back = survey.found + survey.reappeared  # of the latter, those recorded as deleted by the service
        lost.retire_reappeared(session, survey.reappeared, run_id, grace)
        events = [Event("reappeared", run_id, None, blob_id) for blob_id in survey.reappeared]
        with quotas.counted(session, standing_on=back):
            alive = lost.revive(session, back, run_id, grace)
            # guard takedown.found: a lost copy of what was taken down meanwhile is found again, and goes live
            blocked = takedowns.find_blocked(session, alive)
            takedowns.mark(session, list(blocked), run_id)
        events += [Event("found", run_id, None, blob_id) for blob_id in survey.found]
        events += [overwrites.taken_down_again(video_id, blob_id, run_id) for video_id, blob_id in blocked.items()]
        append(session, events)
    return sorted(doubtful) + survey.claimed


def finish(workspace: Workspace, survey: Survey, outcome: str) -> tuple[int, list[str]]:
    """Close the scan, and drop doubts that it did not confirm, and notes of objects that no longer exist.

    Return the count of notes left, and five keys.
    """
    with transaction(workspace.engine, "sync.finish") as session:
        deployment.lock(session)
        ended = doubts.drop_unseen(session, survey.started_at)
        append(
            session,
            [Event("doubt_ended", survey.scan_id, video, blob, None, {"as": "not there"}) for blob, video in ended],
        )
        return scans.finish(session, survey.scan_id, survey.started_at, survey.listed, outcome)
