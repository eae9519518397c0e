"""Leave out of the cache what a plan says, unless it was used since. Videos stay: only what is given again changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from reelkeeper.model.jobs import CacheQueue
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.rules.jobs import pruning
from reelkeeper.rules.jobs.pruning import Move, PrunePlan, PrunePolicy
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import insert_into, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs.queue import stream, trim_ghosts
from reelkeeper.store.tables import cache_entries, cache_ghosts

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
        return pruning.plan(lambda queue: stream(session, queue), policy, as_of)


def carry_out(engine: Engine, moves: Sequence[Move], *, lease: Lease, run_id: str) -> Done:
    """Drop and move one batch of a plan's entries, of those that nobody used since. Raises Frozen, LeaseLost."""
    with transaction(engine, "prune") as session:
        require_permission(session, lease)
        going = [move for move in moves if move.rule]
        gone = _drop(session, going)
        dropped = [move for move in going if move.item.key in gone]
        _haunt(session, [move for move in dropped if move.rule == "budget" and move.item.queue == CacheQueue.SMALL])
        _move(session, [move for move in moves if not move.rule])
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
        return trim_ghosts(session, policy.budget_bytes)


def _drop(session: Session, moves: Sequence[Move]) -> set[str]:
    unused = sa.tuple_(cache_entries.c.key, cache_entries.c.video_id, cache_entries.c.hits)
    wanted = [(move.item.key, move.item.video_id, move.item.hits) for move in moves]
    statement = sa.delete(cache_entries).where(unused.in_(wanted)).returning(cache_entries.c.key)
    return set(session.execute(statement).scalars()) if wanted else set()


def _haunt(session: Session, moves: Sequence[Move]) -> None:
    last = session.execute(sa.select(sa.func.coalesce(sa.func.max(cache_ghosts.c.position), 0))).scalar_one()
    rows = [
        {"key": move.item.key, "size_bytes": move.item.size_bytes, "position": place}
        for place, move in enumerate(moves, last + 1)
    ]
    if rows:
        session.execute(insert_into(session, cache_ghosts).on_conflict_do_nothing(), rows)


def _move(session: Session, moves: Sequence[Move]) -> None:
    """Put entries at the end of the main queue. A hit meanwhile stays counted, one turn late."""
    main = cache_entries.c.queue == CacheQueue.MAIN
    last = session.execute(
        sa.select(sa.func.coalesce(sa.func.max(cache_entries.c.position), 0)).where(main)
    ).scalar_one()
    rows = [
        {
            "a_key": move.item.key,
            "a_video": move.item.video_id,
            "a_hits": move.item.hits,
            "place": place,
            "left": move.frequency,
        }
        for place, move in enumerate(moves, last + 1)
    ]
    if rows:
        session.execute(
            sa.update(cache_entries)
            .where(
                cache_entries.c.key == sa.bindparam("a_key"),
                cache_entries.c.video_id == sa.bindparam("a_video"),
                cache_entries.c.hits == sa.bindparam("a_hits"),
            )
            .values(queue=CacheQueue.MAIN, position=sa.bindparam("place"), frequency=sa.bindparam("left")),
            rows,
        )
