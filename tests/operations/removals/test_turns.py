"""The release of a hold, and views, beside an erasure on PostgreSQL: neither is ended by a deadlock."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from reelkeeper.errors import NotFound
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.videos.hold import hold, release
from reelkeeper.operations.videos.views import import_reads, record_views
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs
from reelkeeper.store.videos.holds import HoldTerms
from tests.databases import beside
from tests.faults.world import World


@pytest.fixture
def engine(postgresql_engine: sa.Engine) -> sa.Engine:
    """Only PostgreSQL has locks of rows."""
    return postgresql_engine


def test_a_hold_is_released_while_its_user_is_erased(world: World) -> None:
    engine = world.workspace.engine
    world.video("v1")
    placed = hold(engine, HoldTerms("user", "ann", "why", "ops"))
    with beside(engine, "DELETE FROM holds", partial(release, engine, placed.id, author="ops")) as begun:
        done = erase(world.workspace, "ann", by="ops", run_id="erase-1", settings=Settings(), wait_seconds=0)
    with pytest.raises(NotFound):
        begun[0].result()
    assert done.left == ()


def note_seen(engine: sa.Engine) -> None:
    assert record_views(engine, {"v1": 1}, at=datetime.now(UTC)) == ["v1"]


def note_reads(engine: sa.Engine) -> None:
    with reading(engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.video_id == "v1")).scalar_one()
    client = Mock(object_reads=Mock(return_value=Mock(by_key={key: 1}, sampled=False, quiet_hours=())))
    assert import_reads(engine, client, "bucket", datetime.now(UTC).date()).videos == 0


@pytest.mark.parametrize("count_views", [note_seen, note_reads])
def test_views_are_counted_while_their_videos_user_is_erased(
    world: World, count_views: Callable[[sa.Engine], None]
) -> None:
    engine = world.workspace.engine
    world.video("v1")
    # the blobs' rows name the video until then
    with beside(engine, "DELETE FROM daily_views", partial(count_views, engine)) as begun:
        done = erase(world.workspace, "ann", by="ops", run_id="erase-1", settings=Settings(), wait_seconds=0)
    begun[0].result()
    assert done.left == ()
