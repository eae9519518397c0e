"""Leave out of the cache what a plan says, unless it was used since. Videos stay: only what is given again changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from reelkeeper.model.jobs import CacheQueue
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.rules.jobs import pruning
from reelkeeper.rules.jobs.pruning import Move, PrunePlan, PrunePolicy
from reelkeeper.store import Engine
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import cache

BATCH = 500


class Done(NamedTuple):
    """How many entries went, how many bytes their videos have, and how many stayed since they were used meanwhile."""

    dropped: int
    size_bytes: int
    stayed: int

    def __add__(self, other: object) -> "Done":
        """Add up two batches."""
        if not isinstance(other, Done):
            return NotImplemented
        return Done(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def draw(engine: Engine, policy: PrunePolicy, as_of: datetime) -> PrunePlan:
    """Judge every entry, in one snapshot; nothing is changed."""
    with reading(engine) as session:
        return pruning.plan(lambda queue: cache.stream(session, queue), policy, as_of)


def carry_out(engine: Engine, moves: Sequence[Move], *, lease: Lease, run_id: str) -> Done:
    """Drop and move one batch of a plan's entries, of those that nobody used since. Raises Frozen, LeaseLost."""
    with transaction(engine, "prune") as session:
        require_permission(session, lease)
        going = [move for move in moves if move.rule]
        gone = cache.drop_unused(session, [move.item for move in going])
        dropped = [move for move in going if move.item.key in gone]
        on_trial = [move.item for move in dropped if move.rule == "budget" and move.item.queue == CacheQueue.SMALL]
        cache.leave_ghosts(session, on_trial)
        cache.move_to_main(session, [move.item._replace(frequency=move.frequency) for move in moves if not move.rule])
        done = Done(len(dropped), sum(move.item.size_bytes for move in dropped), len(going) - len(dropped))
        if dropped:
            rules = sorted({move.rule for move in dropped})
            detail = {"entries": done.dropped, "bytes": done.size_bytes, "rules": rules}
            append(session, [Event("prune", run_id, detail=detail)])
        return done


def forget(engine: Engine, policy: PrunePolicy, *, lease: Lease) -> int:
    """Forget what left the cache long ago; returns how many keys."""
    if policy.budget_bytes is None:
        return 0
    with transaction(engine, "prune.forget") as session:
        require_permission(session, lease)
        return cache.trim_ghosts(session, policy.budget_bytes)
