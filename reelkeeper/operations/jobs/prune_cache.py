"""Drop the cache entries of a plan, unless they were used since. The videos stay."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.rules.jobs import pruning
from reelkeeper.rules.jobs.pruning import Leaving, PrunePlan, PrunePolicy
from reelkeeper.store import Engine
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import cache

BATCH = 500


class Done(NamedTuple):
    """The number of dropped entries, the bytes of their videos, and the number of entries kept since they were used."""

    dropped: int
    size_bytes: int
    stayed: int

    def __add__(self, other: object) -> "Done":
        """Add up two batches.

        >>> Done(1, 10, 0) + Done(2, 5, 1)
        Done(dropped=3, size_bytes=15, stayed=1)
        """
        if not isinstance(other, Done):
            return NotImplemented
        return Done(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def draw(engine: Engine, policy: PrunePolicy, as_of: datetime) -> PrunePlan:
    """Plan which entries to drop, from one snapshot; nothing is changed."""
    with reading(engine) as session:
        return pruning.plan(lambda: cache.stream(session), lambda: cache.requests(session), policy, as_of)


@safe_to_repeat
def carry_out(engine: Engine, leaving: Sequence[Leaving], *, lease: Lease, run_id: str) -> Done:
    """Drop one batch of a plan's entries, unless they were used since. Raises Frozen, LeaseLost."""
    with transaction(engine, "prune") as session:
        require_permission(session, lease)
        gone = cache.drop_unused(session, [each.item for each in leaving])
        dropped = [each for each in leaving if each.item.key in gone]
        done = Done(len(dropped), sum(each.item.size_bytes for each in dropped), len(leaving) - len(dropped))
        if dropped:
            detail = {
                "entries": done.dropped,
                "bytes": done.size_bytes,
                "rules": sorted({each.rule for each in dropped}),
            }
            append(session, [Event("prune", run_id, detail=detail)])
        return done
