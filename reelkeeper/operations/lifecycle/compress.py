"""Compress the videos of a plan in batches, together with any number of workers on the same plan.

    while batch := claim(engine, manager, plan_id):     # takes the leases of a few videos
        for item, lease in batch.items: ...             # compress, record, release the lease

The leases of a killed worker expire within a minute; then others take its videos.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import Frozen, LeaseLost, MediaError, MediaTimeout
from reelkeeper.logs import bound
from reelkeeper.model import Action, Outcome, Refusal
from reelkeeper.model.money import MICRO
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.freeze import why_stopped
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.policies import replaced_since
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.outcomes import judged_again
from reelkeeper.operations.lifecycle.swap import (
    Run,
    Skipped,
    download,
    find_source,
    is_in_place,
    refuse,
    skipped,
    swap,
    why_unfit,
    workplace,
)
from reelkeeper.operations.lifecycle.transcode import Found, Permit, Terms, search, why_too_large
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.lifecycle.first_crf import lesson
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, stay
from reelkeeper.rules.lifecycle.selection import TRIED
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, first_batch
from reelkeeper.rules.lifecycle.worth import FOR_EVER, REQUESTS_IN_PLACE_USD, REQUESTS_USD, pace, unopened
from reelkeeper.rules.policies import recipe_of, terms_of
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import crf_searches, plan_progress
from reelkeeper.store.lifecycle.plans import Item, count_failures
from reelkeeper.store.lifecycle.swaps import Source
from reelkeeper.store.videos.videos import list_videos

_LOOKED_AT = 200  # videos read for one batch


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
            elif not job_totals.add_within(session, scope, self._day, more, int(self._usd_per_day * MICRO)):
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


@safe_to_repeat
def load_job(engine: Engine, plan_id: str) -> CompressionJob:
    """Read the terms that a plan was made under."""
    with reading(engine) as session:
        made = plan_progress.undertaking(session, plan_id)
    return CompressionJob(plan_id, made.run_id, made.as_of, *terms_of(made.terms), *recipe_of(made.terms))


def may_go_on(engine: Engine, plan_id: str, lease: Lease) -> bool:
    """Check whether the plan is still under way, and its terms still in force as when it began.

    Raises Frozen, and LeaseLost when its run is dead.
    """
    with reading(engine) as session:
        if reason := why_stopped(session):
            # guard freeze.helpers: helpers continue during a freeze
            raise Frozen(reason)
        # guard freeze.helped_run: helpers continue for a run that has ended
        if not leases.standing(session, lease):
            raise LeaseLost(
                f"lease {lease.name!r} (token {lease.token}) is no longer held: its run has ended, or is paused"
            )
        if not plan_progress.is_under_way(session, plan_id):
            return False
        made = plan_progress.undertaking(session, plan_id)
        # guard plans.replaced: a night's run goes on compressing after compression was switched off
        return not replaced_since(session, made.begun_at, made.terms)


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
    """Compress one video: gather its terms, search a smaller encode, record the search, and swap the result in.

    A video that does not shrink, or not well enough, is recorded with the reason, and not tried again until the recipe
    changes. Raises as `swap` does; MediaTimeout, where another try may succeed; LeaseLost, too, when its lease is lost
    while it is encoded.
    """
    run, placement = Run(job.run_id, lease, job.policy.grace, scratch), job.recipe.place
    try:
        with bound(video_id=item.video_id or ""):
            source = find_source(workspace, item.video_id or "", item.blob_id, run)
            # guard transcode.again: a video is compressed whose user has paid since the plan to have it left as it is
            _require_due(workspace, job, source)
            terms = replace(gather(workspace, job, source), to_learn=item.rule == TRIED)
            if too_large := why_too_large(source.size_bytes, terms):
                return refuse(workspace, source, too_large, run)
            with _reserved(workspace, job, source, terms) as cost, workplace(source, run) as folder:
                original = download(workspace, source, folder, placement)
                permit = Permit(cost.affords, partial(manager.check, lease))
                unfit = why_unfit(original)
                found = Found(unfit) if unfit else search(original.path, folder, terms, permit)
                record(workspace, job, source, terms, found, cost)
                if isinstance(found.result, Refusal):
                    return refuse(workspace, source, found.result, run)
                return swap(workspace, original, found.result, run)
    except Skipped as skipped:
        return skipped.outcome


def _require_due(workspace: Workspace, job: CompressionJob, source: Source) -> None:
    """Judge a video again, by the plan's own policies as of its time. Raises Skipped where they keep it by now."""
    with reading(workspace.engine) as session:
        terms = job.policy, job.tiers, job.as_of, job.recipe.skip_codecs
        is_due = any(item.action is Action.COMPRESS for item in judged_again(session, [source.video_id], *terms))
    if not is_due:
        raise skipped(source, "no longer to be compressed, by its tier, age, tag or views")


def gather(workspace: Workspace, job: CompressionJob, source: Source) -> Terms:
    """Gather what a search needs to know of its video, and what earlier searches have shown."""
    with reading(workspace.engine) as session:
        video = next(iter(list_videos(session, video_id=source.video_id)), None)
        if video is None:
            raise skipped(source, "erased since the plan")
        limits = job.policy.for_video(video), job.policy.tiers_for(video, job.tiers), job.as_of, video.tier
        known = crf_searches.recall(session, ffmpeg.tools().encoder(job.recipe.codec))
        learnt = (lesson(item.search, item.model, job.recipe, job.acceptance) for item in known)
        here = [item.search for item in known if item.machine == machine.name()]
        return Terms(
            job.recipe,
            job.acceptance,
            stay=stay(*limits, video.created_at, is_ours=source.is_ours) if video.created_at else FOR_EVER,
            model=crf_searches.model_of(session, source.video_id),
            requests_usd=REQUESTS_IN_PLACE_USD if is_in_place(source, job.recipe.place) else REQUESTS_USD,
            lessons=[item for item in learnt if item is not None],
            pace=pace(job.recipe.codec, here, [item.search for item in known]),
            failures=count_failures(session, source.blob_id, (MediaTimeout.__name__, MediaError.__name__)),
        )


@contextmanager
def _reserved(workspace: Workspace, job: CompressionJob, source: Source, terms: Terms) -> Iterator[Cost]:
    """Reserve the expected cost of a search within the day's dollars. Raises Skipped where not enough is left."""
    recipe, limit = job.recipe, job.policy.compress_usd_per_day
    with reading(workspace.engine) as session:
        before = crf_searches.totals(session, encoder=ffmpeg.tools().encoder(recipe.codec))
    expected = unopened(recipe.codec, recipe.payback, before, source.size_bytes, terms.stay)
    expected = expected._replace(requests_usd=terms.requests_usd)
    cost = Cost.reserve(workspace.engine, expected.cost_microusd, limit)
    if cost is None:
        spent = f"today's limit for compression, compress_usd_per_day={limit:f}, has no room for"
        raise skipped(source, f"{spent} {dollars(expected.cost_microusd)} more: a later plan tries it again")
    try:
        yield cost
    finally:
        cost.give_back()


def record(workspace: Workspace, job: CompressionJob, source: Source, terms: Terms, found: Found, cost: Cost) -> None:
    """Record a search, refused or not, and its cost: later searches and appraisals learn from it."""
    if found.search is not None:
        with transaction(workspace.engine, "search.note") as session:
            crf_searches.add(
                session,
                found.search,
                video_id=source.video_id,
                run_id=job.run_id,
                model=terms.model,
                machine=machine.name(),
            )
            cost.settle(session, found.search.cost_microusd)
