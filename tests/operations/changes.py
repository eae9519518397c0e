"""Changes of the store by others while an operation runs, and a record of all writes."""

from typing import Any

import sqlalchemy as sa

from reelkeeper.model import Grace
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import confirm_missing, confirm_there, survey
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, videos
from tests.faults.world import World


def change(world: World, table: sa.Table, **values: object) -> None:
    """Write a change that another run, or a person, has made meanwhile."""
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(table).values(**values))


def rows(world: World) -> list[Any]:
    """All that is written of videos and their bytes."""
    with reading(world.workspace.engine) as session:
        return [
            *session.execute(sa.select(videos).order_by(videos.c.id)),
            *session.execute(sa.select(blobs).order_by(blobs.c.id)),
        ]


def sync_once(world: World, lease: Lease) -> list[str]:
    """Compare bucket and catalogue as `sync_catalog` does; return the keys in doubt."""
    purge.settle_claims(world.workspace, run_id="sync", grace=Grace(), lease=lease)
    found = survey(world.workspace, run_id="sync", note=True)
    confirm_missing(world.workspace, found)
    adoption.judge(world.workspace, found.scan_id, AdoptionLimits())
    orphans.adopt(world.workspace, found, lease=lease, run_id="sync")
    sync.lose(world.workspace, found, lease=lease, run_id="sync")
    confirm_there(world.workspace, found)
    doubtful = sync.mend(world.workspace, found, lease=lease, run_id="sync", grace=Grace())
    sync.finish(world.workspace, found, "done")
    return doubtful
