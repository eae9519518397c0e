"""Buckets of any layout: everything adoptable is adopted, as the dry run predicts."""

import json
import secrets

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.keys import IDENTITY
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import IdentityMismatch
from reelkeeper.model.ids import unique_id
from reelkeeper.operations.core.workspace import join
from reelkeeper.operations.sync import orphans
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs
from tests.buckets import BUCKET, bare_boto3
from tests.faults.world import World
from tests.marks import marked
from tests.operations.layouts import LAYOUTS, act, catalogue, dry, hold, out_of, put, stored


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
def test_adoptable_objects_are_adopted_as_the_dry_run_predicts(
    world: World, endpoint: Endpoint, lease: Lease, name: str
) -> None:
    hold(world.workspace, endpoint, lease, LAYOUTS[name])
    world.check()


@pytest.mark.long
def test_ids_stay_whichever_name_comes_later(world: World, endpoint: Endpoint, lease: Lease) -> None:
    prefix = world.address.prefix
    put(endpoint, prefix, stored("u2/intro.mp4"))
    act(world.workspace, lease)
    put(endpoint, prefix, stored("u1/intro.mp4", "u2/intro/other.mp4"))
    act(world.workspace, lease)
    put(endpoint, prefix, stored("u1/intro/other.mp4", "u0/intro.mp4"))
    act(world.workspace, lease)
    assert catalogue(world.workspace) == {
        "u2/intro.mp4": ("u2", "intro"),
        "u1/intro.mp4": ("u1", unique_id("intro", "u1", "intro")),
        "u0/intro.mp4": ("u0", unique_id("intro", "u0", "intro")),
    }
    assert out_of(world.workspace) == {"u2/intro/other.mp4": "another_file", "u1/intro/other.mp4": "another_file"}


def test_a_bucket_whose_keys_have_no_common_folder_is_adopted_whole(
    world: World, endpoint: Endpoint, lease: Lease
) -> None:
    client, name = bare_boto3(endpoint), f"films-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    for key in ("ann/one.mp4", "bob/two.mp4", "logo.png"):
        client.put_object(Bucket=name, Key=key, Body=b"abc")
    bucket = r2.connect(endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, name, "")
    whole = join(world.workspace.engine, bucket)
    act(whole, lease)
    assert catalogue(whole) == {"ann/one.mp4": ("ann", "one"), "bob/two.mp4": ("bob", "two")}
    assert out_of(whole) == {"logo.png": "not_a_video"}


def test_nothing_is_adopted_if_another_store_works_on_a_folder_of_the_prefix(
    world: World, endpoint: Endpoint, lease: Lease
) -> None:
    put(endpoint, world.address.prefix, stored("ann/one.mp4", "bob/two.mp4"))
    identity = {"Bucket": BUCKET, "Key": f"{world.address.prefix}bob/{IDENTITY}"}
    bare_boto3(endpoint).put_object(**identity, Body=json.dumps({"deployment": "another"}))
    with pytest.raises(IdentityMismatch) as refused:
        act(world.workspace, lease)
    assert marked(refused.value) == snapshot(
        "bucket 'reelkeeper' under 'ID/videos/bob/' belongs to deployment another, but this store to ID. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and _STATE_DIR"
    )
    assert catalogue(world.workspace) == {}
    ours = json.dumps({"deployment": world.workspace.deployment_id})  # as after a narrower prefix was given up
    bare_boto3(endpoint).put_object(**identity, Body=ours)
    act(world.workspace, lease)
    assert len(catalogue(world.workspace)) == 2


def test_debris_under_the_name_of_another_users_video_is_never_swept(
    world: World, endpoint: Endpoint, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_MIN_AGE", orphans.ORPHAN_MIN_AGE * 0)
    monkeypatch.setattr(orphans, "ORPHAN_MIN_WATCH", orphans.ORPHAN_MIN_WATCH * 0)
    world.video("v", generation=2)
    put(endpoint, world.address.prefix, stored("bob/v/g1-0123456789abcdef.mp4", "ann/v/g1-0123456789abcdef.mp4"))
    act(world.workspace, lease)
    assert catalogue(world.workspace)["bob/v/g1-0123456789abcdef.mp4"] == ("bob", unique_id("v", "bob", "v"))
    with reading(world.workspace.engine) as session:
        retired = sa.select(blobs.c.key).where(blobs.c.state == "retired")
        assert list(session.scalars(retired)) == [f"{world.address.prefix}ann/v/g1-0123456789abcdef.mp4"]


@pytest.mark.long
def test_a_pattern_that_makes_one_video_of_months_is_refused(world: World, endpoint: Endpoint, lease: Lease) -> None:
    """The default reads user `2026` and video `10` from such keys."""
    put(endpoint, world.address.prefix, stored(*(f"2026/{month}/{n}.mp4" for month in (9, 10) for n in range(3))))
    put(endpoint, world.address.prefix, stored("ann/v/g1-0123456789abcdef.mp4"))
    foretold = dry(world.workspace)
    assert foretold.refusal
    assert foretold.refusal == snapshot(
        "4 of 6 objects (67 %) would be further files of videos, such as '10' with 3, where at most 50 % may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper videos import --keys. If it is right: --param adoption.max_further_files_percent=100"
    )
    judged, adopted, left, _ = act(world.workspace, lease)
    assert (judged, adopted, left) == (foretold, 1, 6)  # ours is none of the pattern's
    assert set(out_of(world.workspace).values()) == {"refused"}
    allowed = AdoptionLimits(max_further_files_percent=100)
    assert dry(world.workspace, allowed).refusal is None
    assert act(world.workspace, lease, allowed)[1] == 2


@pytest.mark.long
def test_a_video_of_too_many_files_is_refused(world: World, endpoint: Endpoint, lease: Lease) -> None:
    put(
        endpoint,
        world.address.prefix,
        stored(*(f"ann/all/{n}.mp4" for n in range(21)), *(f"b/{n}.mp4" for n in range(40))),
    )
    assert str(dry(world.workspace).refusal) == snapshot(
        "21 files would be one video, 'all', where at most 20 may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper videos import --keys. If it is right: --param adoption.max_files_of_a_video=21"
    )
    assert act(world.workspace, lease)[1] == 0
    assert act(world.workspace, lease, AdoptionLimits(max_files_of_a_video=21))[1] == 41


@pytest.mark.long
def test_3_000_objects_in_one_folder_are_refused_until_a_person_raises_the_limit(
    world: World, endpoint: Endpoint, lease: Lease
) -> None:
    put(endpoint, world.address.prefix, stored(*(f"generations/{n:05}.mp4" for n in range(3_000))))
    foretold = dry(world.workspace)
    assert str(foretold.refusal) == snapshot(
        "3,000 of 3,000 videos (100 %) would be of one user: 'generations', where at most 90 % may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper videos import --keys. If it is right: --param adoption.max_user_percent=100"
    )
    assert foretold.one_day is None
    if world.workspace.engine.dialect.name == "postgresql":  # which compares each with all others until it knows
        with reading(world.workspace.engine) as session:
            known = sa.text("SELECT reltuples FROM pg_class WHERE relname = 'orphans'")
            assert session.execute(known).scalar_one() == 3_000
    assert act(world.workspace, lease)[:2] == (foretold, 0)
    allowed = AdoptionLimits(max_user_percent=100)
    foretold = dry(world.workspace, allowed)
    assert foretold.one_day is not None
    assert foretold.one_day.objects > 1_500
    assert act(world.workspace, lease, allowed)[:3] == (foretold, 3_000, 0)
    put(endpoint, world.address.prefix, stored("generations/later.mp4"))
    assert act(world.workspace, lease)[1] == 1  # a few more of the same user need no word
