"""Fifty random restores, holds, legal holds, uploads and purges after a backup or a copy: the old store purges nothing
that the original has live or held, whatever it tries and whenever.
"""

import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.errors import StoreBehind
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.core import adopt_store, epochs
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.core.backup import backup
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs, holds, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.faults.world import World
from tests.operations.lifecycle.copies import bring_back, copied, purge_all, restored, unmarked

STEPS = 50
SEEDS = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(20)] + [
    pytest.param(None, marks=pytest.mark.long)  # one that is drawn
]
WAYS = ("restored", "snapshot", "copied")


def retired(world: World, video_id: str) -> None:
    world.video(video_id, state=VideoState.RETIRED, blob_state=BlobState.RETIRED)


def keys_to_keep(world: World) -> set[str]:
    """The keys of all that the original has live, or retired and held."""
    is_held = sa.exists().where(
        holds.c.released_at.is_(None),
        sa.or_(
            sa.and_(holds.c.scope == "video", holds.c.subject == videos.c.id),
            sa.and_(holds.c.scope == "user", holds.c.subject == videos.c.user_id),
        ),
    )
    present = blobs.c.id == videos.c.blob_id
    wanted = sa.or_(blobs.c.state == BlobState.LIVE, sa.and_(blobs.c.state == BlobState.RETIRED, is_held, present))
    keys = sa.select(blobs.c.key).join(videos, videos.c.id == blobs.c.video_id).where(wanted)
    with reading(world.workspace.engine) as session:
        return set(session.execute(keys).scalars())


def act(world: World, chance: random.Random, step: int) -> None:
    """Do one thing in the original, as its users and operators would."""
    with reading(world.workspace.engine) as session:
        waiting = sorted(session.execute(sa.select(videos.c.id).where(videos.c.state == "retired")).scalars())
    video_id = chance.choice(waiting) if waiting else None
    what = chance.choice(("restore", "hold", "legal", "upload", "retire", "purge"))
    if what == "restore" and video_id:
        bring_back(world, video_id, hold_days=chance.choice((0, 30)))
    elif what in {"hold", "legal"} and video_id:
        hold(world.workspace.engine, HoldTerms("video", video_id, "a test", "p", None, what == "legal"))
    elif what == "upload":
        world.video(f"new{step}")
    elif what == "purge":
        purge_all(world)
    else:
        retired(world, f"late{step}")


def try_to_delete(old: World, chance: random.Random, refused: list[str]) -> None:
    """Purge, or take a video down, in the old store."""
    with reading(old.workspace.engine) as session:
        some = sorted(session.execute(sa.select(videos.c.id).where(videos.c.state != "gone")).scalars())
    try:
        if some and chance.random() < 0.3:
            order = TakedownOrder("p", "a test", secrets.token_hex(4))
            take_down(old.workspace, chance.choice(some), order, scratch=Path(old.address.folder) / "scratch")
        else:
            purge_all(old)
    except StoreBehind as error:
        refused.append(str(error))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_old_store_deletes_nothing_that_the_original_keeps(
    world: World, tmp_path: Path, empty_url: Callable[[str], str], seed: int | None, way: str
) -> None:
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    chance = random.Random(seed)
    for number in range(8):
        retired(world, f"v{number}")
    world.video("live")
    purge_all(world)  # from then on it knows where it lives
    for number in range(8, 12):
        retired(world, f"v{number}")
    url, refused = empty_url(world.workspace.engine.dialect.name), list[str]()
    if way == "copied":
        old = copied(world, url)
    else:
        saved = backup(world.workspace.engine, tmp_path / "saved")
        if way == "snapshot":  # it does not know that it is old until the original has acted once
            retired(world, "first")
            bring_back(world, "first")
        old = restored(world, saved, url)
        old = unmarked(old) if way == "snapshot" else old
    for step in range(STEPS):
        act(world, chance, step)
        if way != "restored" and chance.random() < 0.2:
            try_to_delete(old, chance, refused)
    before = len(world.double.deleted())
    try_to_delete(old, chance, refused)
    assert refused, "it was never stopped"
    assert len(world.double.deleted()) == before
    for key in keys_to_keep(world):
        assert world.workspace.bucket.head(key) is not None, f"LOST: {key}"
    world.check()
    _adopt_and_purge(world, old)


def _adopt_and_purge(world: World, old: World) -> None:
    """Adopted, the old store holds what the bucket tells of, and purges nothing before its new graces are over."""
    assert epochs.tell(world.workspace)
    seen = adopt_store.look(old.workspace)
    adopt_store.adopt(old.workspace, seen, by="p")
    kept = keys_to_keep(world)
    purge_all(old)  # as if the new graces were over, too
    with reading(old.workspace.engine) as session:
        known = set(session.execute(sa.select(blobs.c.key)).scalars())
    for key in kept & known:
        assert world.workspace.bucket.head(key) is not None, f"LOST after the adoption: {key}"
    with pytest.raises(StoreBehind):
        purge_all(world)
