"""The end of a bucket lock that keeps the bytes of a takedown."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import TokenRefused
from reelkeeper.model.buckets import Lock
from reelkeeper.operations.removals import lock_ends
from reelkeeper.operations.removals.takedown import Certificate, TakedownOrder, take_down
from reelkeeper.settings import Settings
from tests.doubles.cloudflare import ACCOUNT, TOKEN, CloudflareDouble
from tests.faults.world import World
from tests.marks import marked

DAY = timedelta(days=1)


def taken_down(world: World, read: Callable[[], Sequence[Lock]]) -> Certificate:
    world.video("v1")
    (blob,) = world.workspace.bucket.pages()
    (stored,) = blob
    world.double.faults.refuse_deletes([stored.key], code=LOCKED)
    order = TakedownOrder("counsel", "court order 17", "takedown-1")
    found = take_down(world.workspace, "v1", order, scratch=Path(world.address.folder) / "scratch")
    return lock_ends.explain(world.workspace, found, read)


def test_locked_objects_are_certified_with_the_end_of_their_lock(world: World) -> None:
    (item,) = taken_down(world, lambda: [Lock("l", "", age=30 * DAY)]).objects
    stored = world.workspace.bucket.head(item.key)
    assert stored
    ends = f"{stored.last_modified + 30 * DAY:%Y-%m-%d %H:%M} UTC"
    assert marked(item.why, ENDS=ends) == snapshot("a bucket lock keeps it until ENDS. Repeat the takedown then")
    assert item.purged_at is None


def test_a_lock_without_end_and_an_unreadable_one_are_reported_as_such(world: World) -> None:
    def refused() -> Sequence[Lock]:
        raise TokenRefused("no")

    found = taken_down(world, refused)
    assert found.objects[0].why == snapshot(
        "a bucket lock keeps it; set REELKEEPER_CLOUDFLARE_API_TOKEN to see until when"
    )
    again = found._replace(objects=tuple(item._replace(why=f"{LOCKED}: locked") for item in found.objects))
    explained = lock_ends.explain(world.workspace, again, lambda: [Lock("l", "")])
    assert explained.objects[0].why == snapshot("a bucket lock keeps it for ever")


def test_no_locks_are_read_if_nothing_is_locked(world: World) -> None:
    world.video("v2")
    order = TakedownOrder("counsel", "court order 17", "takedown-1")
    found = take_down(world.workspace, "v2", order, scratch=Path(world.address.folder) / "scratch")
    assert lock_ends.explain(world.workspace, found, lambda: pytest.fail("asked")) == found


def test_locks_are_read_from_cloudflare_where_a_token_is_set() -> None:
    assert lock_ends.reader(Settings())() == ()
    with CloudflareDouble().serving() as double:
        date = {"type": "Date", "date": "2027-01-01T00:00:00Z"}
        rule = {"id": "l", "enabled": True, "prefix": "videos/", "condition": date}
        double.bucket_rules["/r2/buckets/reelkeeper/lock"] = [rule]
        configured = Settings(cloudflare_account_id=ACCOUNT, cloudflare_api_token=TOKEN, cloudflare_api_url=double.url)
        assert lock_ends.reader(configured)() == [Lock("l", "videos/", until=datetime(2027, 1, 1, tzinfo=UTC))]
