"""The release of a hold, views and imports beside an erasure on PostgreSQL: neither is ended by a deadlock."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
from reelkeeper.store.tables import blobs, daily_views
from reelkeeper.store.videos import imports
from reelkeeper.store.videos.holds import HoldTerms
from tests.databases import beside
from tests.faults.world import World

DAY = datetime.now(UTC) - timedelta(days=2)


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


def erase_ann(world: World) -> None:
    assert erase(world.workspace, "ann", by="ops", run_id="erase-1", settings=Settings(), wait_seconds=0).left == ()


def import_in_another_order(world: World) -> None:
    imports.import_videos(world.workspace.engine, ["id,user_id,created_at,tag", "v1,ann,,old", "v2,ann,,old"])


def import_videos(engine: sa.Engine) -> None:
    assert imports.import_videos(engine, ["id,user_id,created_at,tag", f"v2,ann,{DAY},new", f"v1,ann,{DAY},new"]).lines


def import_views(engine: sa.Engine) -> None:
    assert imports.import_views(engine, ["video_id,day,views", f"v2,{DAY:%Y-%m-%d},1", f"v1,{DAY:%Y-%m-%d},1"]).lines


@pytest.mark.parametrize(
    ("take", "begins", "meanwhile"),
    [
        (import_videos, "UPDATE videos SET tag", erase_ann),
        (import_videos, "UPDATE videos SET tag", import_in_another_order),
        (import_views, "INSERT INTO daily_views", erase_ann),
        (import_views, "UPDATE videos SET last_viewed_at", erase_ann),
    ],
)
def test_a_file_is_imported_while_another_works_on_its_videos(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[[sa.Engine], None],
    begins: str,
    meanwhile: Callable[[World], None],
) -> None:
    monkeypatch.setattr(imports, "_BATCH", 1)
    world.video("v1")
    world.video("v2")
    with beside(world.workspace.engine, begins, partial(meanwhile, world)) as begun:
        take(world.workspace.engine)
    begun[0].result()


def test_a_view_is_counted_while_a_file_with_views_of_its_video_is_imported(world: World) -> None:
    engine = world.workspace.engine
    world.video("v1")
    world.video("v2")
    with beside(engine, "UPDATE videos", partial(record_views, engine, {"v1": 1}, at=DAY)) as begun:
        import_views(engine)
    begun[0].result()
    with reading(engine) as session:
        views = session.execute(sa.select(daily_views.c.video_id, daily_views.c.views)).all()
    assert sorted(map(tuple, views)) == [("v1", 2), ("v2", 1)]
