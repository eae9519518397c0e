"""Store the file that a job made as its video, verify it, and end the job as succeeded.

The video has the job's id, so a worker that takes over a half-delivered job finds its state and continues: a video that
is already live is not stored again.
"""

from pathlib import Path

from reelkeeper.errors import IntegrityDoubt, LeaseLost, NotFound
from reelkeeper.model.money import ReservationState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt, Settled
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.upload import upload
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs import queue
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.videos import intents as rows
from reelkeeper.store.videos.videos import is_live


def deliver(
    workspace: Workspace, attempt: Attempt, source: Path, *, scratch: Path, lease: Lease, run_id: str
) -> Settled:
    """Store `source` as the job's video and end the job; safe to repeat. The caller holds the lease `video/<job_id>`.

    A file larger than the reservation is stored anyway: its user was promised the video. Raises NotAVideo,
    LeaseLost, Frozen, NoRoom, and IntegrityDoubt when the stored bytes differ from those sent: the job stays running.
    """
    job_id = attempt.job_id
    delivered = settle_left(workspace, job_id, scratch=scratch, lease=lease)
    with reading(workspace.engine) as session:
        job, reservation, reserved = _require(session, job_id, attempt.lease_token)
        created_at, grace = now(session), in_force(session).policies.lifecycle.grace
    if not delivered:
        size_bytes = source.stat().st_size
        fits = size_bytes <= reserved
        # guard machines.beside_itself: a clip that leaves no room to look at it counts as a full disk, and ends the run
        intents.require_room(scratch, size_bytes, there_bytes=size_bytes)
        done = upload(
            workspace,
            source,
            Incoming(job.user_id, job_id, created_at, job.tag, job.model, reservation if fits else None),
            scratch=scratch,
            lease=lease,
            run_id=run_id,
            grace=grace,
        )
        if done.action != "uploaded":
            raise IntegrityDoubt(f"the video of job {job_id} was not published: {done.reason}")
    return settle.succeed(workspace.engine, attempt, run_id=run_id)


def is_stored(engine: Engine, job_id: str) -> bool:
    """Check whether a job's video is live, or stored and not settled yet."""
    with reading(engine) as session:
        # guard claims.begun: a job is cancelled or dead, and given back, whose video was stored and appears later
        return is_live(session, job_id) or bool(rows.open_intents(session, job_id))


def settle_left(workspace: Workspace, job_id: str, *, scratch: Path, lease: Lease) -> bool:
    """Settle what a killed worker left open at a job's video; return whether the video is live. As in `deliver`."""
    with reading(workspace.engine) as session:
        grace = in_force(session).policies.lifecycle.grace
    for intent in intents.open_intents(workspace, job_id):
        intents.settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)
    with reading(workspace.engine) as session:
        return is_live(session, job_id)


def _require(session: Session, job_id: str, lease_token: int) -> tuple[AdmittedJob, str | None, int]:
    """Read the job, its open reservation and the reserved bytes. Raises LeaseLost where another worker has the job."""
    job = queue.find(session, job_id)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    # guard settle.delivery_fenced: a worker that was suspended stores a video over another worker's
    if job.lease_token != lease_token:
        raise LeaseLost(
            f"job {job_id} has claim {job.lease_token} now, not {lease_token}: another worker has it; nothing was "
            "stored"
        )
    reserved = quotas.find(session, job.reservation_id) if job.reservation_id else None
    if reserved is None or reserved.state != ReservationState.OPEN:
        return job, None, 0
    return job, reserved.id, reserved.size_bytes
