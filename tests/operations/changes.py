"""What others change in the store while an operation is at work, and all that is written there."""

from typing import Any

import sqlalchemy as sa

from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, videos
from tests.faults.world import World


def change(world: World, table: sa.Table, **values: object) -> None:
    """Write what another run, or a person, has written meanwhile."""
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(table).values(**values))


def rows(world: World) -> list[Any]:
    """All that is written of videos and their bytes."""
    with reading(world.workspace.engine) as session:
        return [
            *session.execute(sa.select(videos).order_by(videos.c.id)),
            *session.execute(sa.select(blobs).order_by(blobs.c.id)),
        ]
