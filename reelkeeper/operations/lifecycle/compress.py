"""Compress the videos of a plan in batches, together with any number of workers on the same plan.

    while batch := claim(engine, manager, plan_id):     # takes the leases of a few videos
        for item, lease in batch.items: ...             # compress, record, release the lease

The leases of a killed worker expire within a minute; then others take its videos.
"""

from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import Frozen, LeaseLost, MediaTimeout
from reelkeeper.logs import bound
from reelkeeper.model import CrfSearch, Outcome
from reelkeeper.operations.core.freeze import why_stopped
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import swap
from reelkeeper.operations.lifecycle.plans import appraise
from reelkeeper.operations.lifecycle.transcode import Circumstances, shrink
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.lifecycle.first_crf import Lesson, lesson
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import IN_PLACE, Acceptance, Recipe, first_batch
from reelkeeper.rules.lifecycle.worth import aside_usd
from reelkeeper.rules.policies import recipe_of, terms_of
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import crf_searches, plan_progress, swaps
from reelkeeper.store.lifecycle.plans import Item, count_failures
from reelkeeper.store.videos.videos import list_videos

_LOOKED_AT = 200  # videos read for one batch
_MICRO: Final = 10**6


class CompressionJob(NamedTuple):
    """The parameters that all transcodes of a plan share, on every worker."""

    plan_id: str
    run_id: str  # of the run that carries the plan out, so that one command can undo all of it
    as_of: datetime
    policy: LifecyclePolicy
    tiers: Tiers
    recipe: Recipe
    acceptance: Acceptance


class Batch(NamedTuple):
    """A few videos of a plan, with their leases. `last_try`: each has failed once."""

    items: list[tuple[Item, Lease]]
    last_try: bool


class Cost:
    """A search's part of the day's dollars for compressing.

    The expected cost is reserved before the search begins, more before each encode that exceeds it, and replaced with
    the actual cost at the end. If the worker dies or the search fails, the reservation stays: the CPU was spent.
    """

    def __init__(self, engine: Engine, day: str, usd_per_day: Decimal | None) -> None:
        self._engine, self._day, self._usd_per_day = engine, day, usd_per_day
        self._reserved, self._begun = 0, False

    @classmethod
    def reserve(cls, engine: Engine, microusd: int, usd_per_day: Decimal | None) -> Self | None:
        """Reserve a part of today's dollars; None: not enough is left."""
        with reading(engine) as session:
            cost = cls(engine, f"{now(session):%Y-%m-%d}", usd_per_day)
        return cost if cost._raise_to(microusd) else None

    def affords(self, microusd: int) -> bool:
        """Reserve the rest of a search's cost after its next encode; False: the search has to end."""
        affordable = self._raise_to(microusd)
        self._begun |= affordable
        return affordable

    def _raise_to(self, microusd: int) -> bool:
        more, scope = max(0, microusd - self._reserved), job_totals.COMPRESSING
        with transaction(self._engine, "compressing.reserve") as session:
            if self._usd_per_day is None:
                job_totals.add(session, [scope], {self._day: more})
            # guard transcode.usd_per_day: encodes exceed the day's limit in dollars
            elif not job_totals.add_within(session, scope, self._day, more, int(self._usd_per_day * _MICRO)):
                return False
        self._reserved += more
        return True

    def settle(self, session: Session, microusd: int) -> None:
        """Replace the reservation with the actual cost."""
        job_totals.add(session, [job_totals.COMPRESSING], {self._day: microusd - self._reserved})
        self._reserved = 0

    def give_back(self) -> None:
        """Release the reservation of a search without an encode."""
        if self._reserved and not self._begun:
            with transaction(self._engine, "compressing.give_back") as session:
                self.settle(session, 0)


def load_job(engine: Engine, plan_id: str) -> CompressionJob:
    """Read the terms that a plan was made under."""
    with reading(engine) as session:
        run_id, as_of, terms = plan_progress.undertaking(session, plan_id)
    return CompressionJob(plan_id, run_id, as_of, *terms_of(terms), *recipe_of(terms))


def may_go_on(engine: Engine, plan_id: str, lease: Lease) -> bool:
    """Check whether the plan is still under way. Raises Frozen, and LeaseLost when its run is dead."""
    with reading(engine) as session:
        if reason := why_stopped(session):
            # guard freeze.helpers: helpers continue during a freeze
            raise Frozen(reason)
        # guard freeze.helped_run: helpers continue for a run that has ended
        if not leases.standing(session, lease):
            raise LeaseLost(
                f"lease {lease.name!r} (token {lease.token}) is no longer held: its run has ended, or is paused"
            )
        return plan_progress.is_under_way(session, plan_id)


def claim(engine: Engine, manager: LeaseManager, plan_id: str) -> Batch | None:
    """Take the leases of the next videos of a plan, the largest first; None when all are settled or taken."""
    while True:
        with reading(engine) as session:
            items, last_try = plan_progress.waiting(session, plan_id, _LOOKED_AT)
            open_ones, everything = plan_progress.left(session, plan_id)
        if not items:
            return None
        wanted = items[: first_batch([item.size_bytes for item in items], open_ones.size_bytes, everything.size_bytes)]
        granted = {
            lease.name: lease for lease in manager.take([plan_progress.video_lease(item.video_id) for item in wanted])
        }
        claimed = [
            (item, granted[name]) for item in wanted if (name := plan_progress.video_lease(item.video_id)) in granted
        ]
        with reading(engine) as session:  # leaves out videos that another worker settled before it released the lease
            blob_ids = [item.blob_id for item, _ in claimed]
            unsettled = plan_progress.unsettled(session, plan_id, blob_ids, last_try=last_try)
        manager.release([lease for item, lease in claimed if item.blob_id not in unsettled])
        if unsettled:
            return Batch([(item, lease) for item, lease in claimed if item.blob_id in unsettled], last_try)


def compress(
    workspace: Workspace, manager: LeaseManager, job: CompressionJob, item: Item, lease: Lease, *, scratch: Path
) -> Outcome:
    """Compress one video. Raises as `swap` does; LeaseLost, too, when its lease is lost while it is encoded."""
    video_id = item.video_id or ""
    encoder = ffmpeg.tools().encoder(job.recipe.codec)
    with reading(workspace.engine) as session:
        model = crf_searches.model_of(session, video_id)
        remaining_days, source = _remaining_days(session, job, video_id), swaps.find_source(session, video_id)
    in_place = job.recipe.place == IN_PLACE and source is not None and not source.is_ours
    aside = aside_usd(item.size_bytes, job.policy.grace.service_days) if in_place else 0.0
    expected = appraise(workspace.engine, job.recipe, encoder)(item.size_bytes, remaining_days)
    expected = expected._replace(aside_usd=aside)
    cost = Cost.reserve(workspace.engine, expected.cost_microusd, job.policy.compress_usd_per_day)
    if cost is None:
        why = (
            f"today's limit for compression, compress_usd_per_day={job.policy.compress_usd_per_day:f}, has no room for "
        )
        why += f"{dollars(expected.cost_microusd)} more: a later plan tries it again"
        return Outcome(video_id, "skipped", why, item.size_bytes, item.size_bytes, item.blob_id)
    try:
        with bound(video_id=video_id):
            return swap.swap(
                workspace,
                swap.Order(
                    video_id,
                    item.blob_id,
                    partial(
                        shrink,
                        recipe=job.recipe,
                        acceptance=job.acceptance,
                        known=Circumstances(
                            remaining_days,
                            model,
                            aside,
                            lessons=partial(_lessons, workspace, job),
                            affords=cost.affords,
                            note=partial(_note, workspace, job, video_id, model, cost),
                            progress=partial(manager.check, lease),
                            timed_out=partial(_timed_out, workspace, item.blob_id),
                        ),
                    ),
                    job.recipe.place,
                ),
                scratch=scratch,
                lease=lease,
                run_id=job.run_id,
                grace=job.policy.grace,
            )
    finally:
        cost.give_back()


def _remaining_days(session: Session, job: CompressionJob, video_id: str) -> int | None:
    """Return the days left of the video's life by its user's tier; None: for ever, or unknown."""
    found = list_videos(session, video_id=video_id)
    if not found:
        return None
    (video,) = found
    tiers = job.policy.tiers_for(video, job.tiers)
    return tiers.remaining_days(video.tier, video.created_at, job.as_of)


def _lessons(workspace: Workspace, job: CompressionJob, encoder: str) -> list[Lesson]:
    with reading(workspace.engine) as session:
        searches = crf_searches.recall(session, encoder)
    learnt = (lesson(search, model, job.recipe, job.acceptance) for model, search in searches)
    return [item for item in learnt if item is not None]


def _note(
    workspace: Workspace, job: CompressionJob, video_id: str, model: str | None, cost: "Cost", search: CrfSearch
) -> None:
    with transaction(workspace.engine, "search.note") as session:
        crf_searches.add(session, search, video_id=video_id, run_id=job.run_id, model=model)
        cost.settle(session, search.cost_microusd)


def _timed_out(workspace: Workspace, blob_id: int) -> int:
    with reading(workspace.engine) as session:
        return count_failures(session, blob_id, MediaTimeout.__name__)
