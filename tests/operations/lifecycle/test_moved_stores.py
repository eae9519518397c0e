"""A store that was moved, or a bucket claimed anew: nothing is deleted until it is adopted. Neighbours never meet."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.errors import IdentityMismatch, StoreBehind
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.adopt_store import adopt, look
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.workspace import check_identity
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.core import deployment
from reelkeeper.store.core.backup import backup, restore
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, users
from reelkeeper.store.videos.holds import HoldTerms, in_force
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.operations.lifecycle.copies import bring_back, copied, opened, purge_all, restored, stored_keys
from tests.operations.sync.test_sync import run as sync
from tests.store.core.test_move import OTHER, bring


def retired(world: World, video_id: str) -> None:
    world.video(video_id, state=VideoState.RETIRED, blob_state=BlobState.RETIRED)


def purged(world: World) -> set[str]:
    return {outcome.video_id for outcome in purge_all(world) if outcome.action == "purged"}


def test_moved_to_another_place_it_deletes_nothing_until_it_is_adopted(
    world: World, empty_url: Callable[[str], str]
) -> None:
    retired(world, "first")
    assert purged(world) == {"first"}  # from then on it knows where it lives
    for video_id in ("v1", "held"):
        retired(world, video_id)
    hold(world.workspace.engine, HoldTerms("video", "held", "a dispute", "p"))
    there = copied(world, empty_url(world.workspace.engine.dialect.name))
    with pytest.raises(StoreBehind):
        purge_all(there)
    adopt(there.workspace, look(there.workspace), by="p")
    with pytest.raises(StoreBehind):
        purge_all(world)  # the old place is the one that is stopped now
    assert stored_keys(world, ["v1", "held"]) == {"v1": True, "held": True}
    assert purged(there) == {"v1"}
    assert stored_keys(world, ["held"]) == {"held": True}


def test_a_copy_is_not_made_the_original_by_moving_it(world: World, empty_url: Callable[[str], str]) -> None:
    retired(world, "first")
    assert purged(world) == {"first"}  # from then on it knows where it lives
    retired(world, "held")
    kind = world.workspace.engine.dialect.name
    copy, url = copied(world, empty_url(kind)), empty_url(OTHER[kind])
    hold(world.workspace.engine, HoldTerms("video", "held", "a dispute", "p"))  # the bucket is not told yet
    with pytest.raises(StoreBehind):
        bring(copy.workspace.engine, url)
    with pytest.raises(StoreBehind):
        purge_all(copy)
    assert stored_keys(world, ["held"]) == {"held": True}
    adopt(copy.workspace, look(copy.workspace), by="p")
    assert bring(copy.workspace.engine, url)


def test_an_adoption_deletes_nothing_before_the_end_of_a_longer_grace(world: World) -> None:
    retired(world, "v1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).values(purge_after=Clock(90 * 86_400)))
        before = session.execute(sa.select(blobs.c.id, blobs.c.purge_after)).all()
    assert adopt(world.workspace, look(world.workspace), by="p")
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(blobs.c.id, blobs.c.purge_after)).all() == before


def test_an_adoption_ends_no_freeze_that_was_in_force_at_the_backup(
    world: World, tmp_path: Path, empty_url: Callable[[str], str]
) -> None:
    url = empty_url(world.workspace.engine.dialect.name)
    freeze(world.workspace.engine, by="ada", reason="incident")
    restore(url, backup(world.workspace.engine, tmp_path / "saved"))
    back = opened(world, url).workspace
    adopt(back, look(back), by="p")
    with reading(back.engine) as session:
        stopped = deployment.stopped(session)
    assert stopped
    assert (stopped.by, stopped.reason) == ("ada", "incident")
    assert thaw(back.engine, by="ada") == "incident"


@pytest.mark.parametrize("scope", ["video", "user"])
def test_a_hold_on_what_was_uploaded_since_the_backup_is_in_force_once_that_is_taken_in(
    world: World, lease: Lease, tmp_path: Path, empty_url: Callable[[str], str], scope: str
) -> None:
    url = empty_url(world.workspace.engine.dialect.name)
    saved = backup(world.workspace.engine, tmp_path / "saved")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="bob", tier="free", created_at=LONG_AGO))
    if scope == "video":
        world.video(subject := "new")
    else:  # of a user who has come since
        world.workspace.bucket.put_once(f"{world.address.prefix}{(subject := 'bob')}/new.mp4", world.clip, "video/mp4")
    hold(world.workspace.engine, HoldTerms(scope, subject, "a dispute", "p", is_legal=True))
    assert epochs.tell(world.workspace, seconds=20)
    back = restored(world, saved, url)
    survey(back.workspace, run_id="dry", note=True)  # the runbook's dry run of sync_catalog
    adopt(back.workspace, look(back.workspace), by="p")
    assert sync(back, lease)[1]["adopted"] == (1, 0)
    with reading(back.workspace.engine) as session:
        assert [(held.subject, held.is_legal) for held in in_force(session)] == [(subject, True)]


def test_a_bucket_that_was_claimed_anew_is_purged_only_once_it_is_adopted(world: World) -> None:
    retired(world, "first")
    purge_all(world)
    retired(world, "v1")
    bucket = world.workspace.bucket
    for key in (bucket.identity_key, *map(bucket.epoch_key, bucket.epochs())):
        world.double.client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(IdentityMismatch):
        world.address.workspace()
    check_identity(bucket, world.workspace.deployment_id, may_claim=True)  # as doctor --claim does
    with pytest.raises(StoreBehind):
        purge_all(world)
    assert stored_keys(world, ["v1"]) == {"v1": True}
    adopt(world.workspace, look(world.workspace), by="p")
    assert purged(world) == {"v1"}


def test_neighbouring_prefixes_do_not_see_each_others_changes(
    world: World, tmp_path: Path, migrated_file: Path
) -> None:
    shutil.copyfile(migrated_file, tmp_path / "neighbour.sqlite3")
    url = f"sqlite:///{tmp_path / 'neighbour.sqlite3'}"
    address = replace(world.address, store_url=url, prefix=f"{world.address.prefix.removesuffix('/')}2/")
    neighbour = World(address, world.double, world.clip, address.workspace(), world.outside)
    with transaction(neighbour.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free", created_at=LONG_AGO))
    for turn, one in enumerate((world, neighbour, neighbour, world)):
        retired(one, f"gone{turn}")
        assert purged(one) == {f"gone{turn}"}
        retired(one, f"back{turn}")
        bring_back(one, f"back{turn}")
    assert not {*world.workspace.bucket.epochs()} & {*neighbour.workspace.bucket.epochs()}
    assert purged(world) == purged(neighbour) == set()
    assert stored_keys(neighbour, ["back1", "back2"]) == {"back1": True, "back2": True}
