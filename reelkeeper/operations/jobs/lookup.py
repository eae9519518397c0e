"""Look up what exists for a request: a video, a job under way, an earlier answer to its key."""

import time
from typing import Final, NamedTuple

from reelkeeper.errors import KeyReused, NotFound
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import Admission, Cached, GenerationRequest, Given, Joined, Queued, Unfulfilled
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.jobs.admission import wait_seconds
from reelkeeper.rules.jobs.dispatch import Account, weight_of, width_of
from reelkeeper.rules.policies import InForce, Policies
from reelkeeper.store import Session
from reelkeeper.store.billing.credit_holds import captured
from reelkeeper.store.jobs import queue
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.jobs.slots import is_there, slots_now


class AdmissionRequest(NamedTuple):
    """A request, its user and the client's key."""

    user_id: str
    client_key: str
    request: GenerationRequest
    sha256: str  # of the request, the same for all users
    cache_key: str
    provider: str | None  # for models without one in the catalogue; None: they are refused
    tag: str | None  # for a new video; not part of the request, so an existing video answers any tag
    given: Given  # not part of the request either


class ExistingState(NamedTuple):
    """Everything that exists already for a request, at one moment."""

    in_force: InForce
    tier: str | None  # of the user
    known: Admission | None  # the earlier answer to this key
    is_cached: bool
    leader_id: str | None  # the job that is making the same


def look(session: Session, asked: AdmissionRequest) -> ExistingState:
    """Look up what exists for a request, and the earlier answer to its key. Raises NotFound, KeyReused, SchemaError."""
    seen = queue.look(session, asked.user_id, asked.client_key, asked.cache_key)
    if seen is None:
        raise NotFound(f"no user {asked.user_id!r} in the catalogue; nothing was admitted")
    found = in_force(session)
    known = None if seen.job is None else _before(session, asked, seen.job, found.policies)
    return ExistingState(found, seen.tier, known, seen.is_cached, seen.leader_id)


def _before(session: Session, asked: AdmissionRequest, job: AdmittedJob, policies: Policies) -> Admission:
    # guard admission.key_reused: a reused key is answered with, and charged for, the video of an earlier request
    if job.request_sha256 != asked.sha256:
        raise KeyReused(
            f"idempotency key {asked.client_key!r} of user {asked.user_id!r} was used for another request at "
            f"{job.created_at:%Y-%m-%d %H:%M:%S}, job {job.id}; nothing was admitted. Use a new key for a new request"
        )
    replays.note()
    if job.state == JobState.SUCCEEDED and job.video_id is None:
        return Unfulfilled(
            job.id,
            JobState.DEAD,
            "its video belonged to another user, who was erased; use a new key to request it again",
        )
    if job.state == JobState.SUCCEEDED:
        return Cached(job.id, str(job.video_id), captured(session, job.hold_id))
    if job.state in (JobState.DEAD, JobState.CANCELLED):
        return Unfulfilled(job.id, JobState(job.state), job.error or "")
    if job.leader_id is not None:
        return Joined(job.id, job.leader_id, job.price_microusd)
    return still_queued(session, job, policies)


class _Counted(NamedTuple):
    """An account of a long queue, for how long it is used, and the weight of sizes in it."""

    account: Account
    until: float
    weight: float


_COUNTED: Final = dict[str, _Counted]()  # by store
_LASTS_SECONDS: Final = 1.0
_SHARE: Final = 0.05  # of this process's time at most, to count a long queue


def still_queued(session: Session, job: AdmittedJob, policies: Policies) -> Queued:
    """Describe a waiting job to its user: its place and estimates at this moment, or a little earlier in a long queue.

    A short queue is looked at, a long one counted at most once a second and in a twentieth of the time.
    """
    weight, slots = weight_of(policies.order), slots_now(session, policies.admission.slots)
    seen = queue.waiting(session, job, weight)
    if seen.seen > queue.SHORT:
        ahead, seconds = _account(session, weight).ahead(queue.rank_of(job, weight))
        seen = seen._replace(ahead=ahead, ahead_seconds=seconds)
    has_worker, wait, finish = is_there(session), None, None
    if has_worker:
        wait = wait_seconds(seen.ahead_seconds, seen.running, seen.running_seconds, slots)
        finish = round(wait + job.estimate_seconds, 1)
    return Queued(job.id, job.price_microusd, job.price_book, seen.ahead + 1, has_worker, wait, finish)


def _account(session: Session, weight: float) -> Account:
    store, began = str(session.get_bind().engine.url), time.monotonic()
    known = _COUNTED.get(store)
    if known and known.weight == weight:
        if began < known.until:
            return known.account
        _COUNTED[store] = known._replace(until=began + 1 / _SHARE)  # others use it while this one counts
    width = width_of(weight)
    account = Account.of(queue.steps(session, weight, width), width)
    ended = time.monotonic()
    _COUNTED[store] = _Counted(account, ended + max(_LASTS_SECONDS, (ended - began) / _SHARE), weight)
    return account
