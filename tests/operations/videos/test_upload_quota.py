"""An upload with a reservation: its bytes are settled with the video, or released with the intent."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import HoldClosed, NotFound, QuotaExceeded, StorageError
from reelkeeper.model import Grace, Outcome, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.billing import quota
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.upload import upload
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import reservations, videos
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.books import make_user, storage


def reserve(world: World, size: int, key: str = "upload 1", user: str = "ann") -> None:
    with transaction(world.workspace.engine, "test") as session:
        quota.reserve(session, user, size, key, lasting_seconds=600)


def state_of(world: World, key: str = "upload 1") -> str:
    with transaction(world.workspace.engine, "test") as session:
        return str(session.execute(sa.select(reservations.c.state).where(reservations.c.id == key)).scalar_one())


def put(world: World, lease: Lease, key: str | None, *, video: str = "new", created_at: datetime = LONG_AGO) -> Outcome:
    return upload(
        world.workspace,
        world.clip,
        Incoming("ann", video, created_at, reservation=key),
        scratch=Path(world.address.folder) / "scratch",
        lease=lease,
        run_id="run",
        grace=Grace(),
    )


def test_its_bytes_turn_from_reserved_to_used(world: World, lease: Lease) -> None:
    size = world.clip.stat().st_size
    reserve(world, size + 100)
    assert put(world, lease, "upload 1").action == "uploaded"
    assert storage(world.workspace.engine, "ann") == (size, 0)
    assert state_of(world) == "settled"


def test_new_bytes_of_a_video_count_by_their_difference(world: World, lease: Lease) -> None:
    size = world.clip.stat().st_size
    put(world, lease, None)
    reserve(world, size)
    put(world, lease, "upload 1")
    assert storage(world.workspace.engine, "ann") == (size, 0)


def test_more_than_was_promised_is_refused_before_anything_is_stored(world: World, lease: Lease) -> None:
    reserve(world, world.clip.stat().st_size - 1)
    with pytest.raises(QuotaExceeded):
        put(world, lease, "upload 1")
    assert not [
        request for request in world.double.sent("PutObject") if request.key.startswith(f"{world.address.prefix}ann/")
    ]
    assert state_of(world) == "open"


def test_an_ended_reservation_or_another_users_is_refused(world: World, lease: Lease) -> None:
    make_user(world.workspace.engine, "bob")
    size = world.clip.stat().st_size
    reserve(world, size, "of bob", "bob")
    reserve(world, size, "over")
    with transaction(world.workspace.engine, "test") as session:
        quota.release(session, "over")
    for key, error in (("of bob", NotFound), ("over", HoldClosed), ("no such", NotFound)):
        with pytest.raises(error):
            put(world, lease, key)


def test_an_upload_under_way_keeps_its_promise_and_gives_it_back_when_it_fails(world: World, lease: Lease) -> None:
    size = world.clip.stat().st_size
    reserve(world, size)
    world.double.faults.fail("PutObject", 403)
    with pytest.raises(StorageError):
        put(world, lease, "upload 1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(reservations).values(expires_at=Clock(-1)))
        assert not quota.expire(session)
        with pytest.raises(HoldClosed) as refused:
            quota.release(session, "upload 1")
        assert marked(refused.value, SIZE=f"{size:,}") == snapshot(
            "reservation 'upload 1' of SIZE bytes cannot be released: an upload in progress uses it"
        )
        with pytest.raises(HoldClosed) as refused:
            quota.require_room(session, "upload 1", "ann", 1)
        assert marked(refused.value) == snapshot(
            "another upload uses reservation 'upload 1'; nothing was stored. Make a new one"
        )
    (intent,) = intents.open_intents(world.workspace)
    intents.settle(world.workspace, intent, scratch=Path(world.address.folder), lease=lease, grace=Grace())
    assert (state_of(world), storage(world.workspace.engine, "ann")) == ("released", (0, 0))
    with transaction(world.workspace.engine, "test") as session:
        assert session.execute(sa.select(videos.c.state)).scalar_one() == VideoState.GONE


def test_a_video_whose_first_upload_failed_is_as_old_as_the_one_that_came(world: World, lease: Lease) -> None:
    world.double.faults.fail("PutObject", 403)
    with pytest.raises(StorageError):
        put(world, lease, None)
    (intent,) = intents.open_intents(world.workspace)
    intents.settle(world.workspace, intent, scratch=Path(world.address.folder), lease=lease, grace=Grace())
    today = datetime.now(UTC)
    assert put(world, lease, None, created_at=today).action == "uploaded"
    with transaction(world.workspace.engine, "test") as session:
        known = session.execute(sa.select(videos.c.state, videos.c.created_at)).one()
    assert tuple(known) == (VideoState.LIVE, today)
