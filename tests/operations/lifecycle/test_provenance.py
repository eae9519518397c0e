"""The label "made by AI" and a vendor's own box survive a whole swap, as another program reads what is served."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.model import Grace
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.rules.lifecycle.transcode import Placement
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos.videos import list_videos
from tests.adapters.ffmpeg.test_boxes import AI, OWN, box, label, with_label
from tests.faults.world import World
from tests.shrinking import shrink
from tests.swapping import swap

VENDORS = box(b"uuid", OWN + b"\x00 a signature \xff")


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.mark.parametrize("placement", ["new_key", "in_place"])
def test_provenance_survives_a_swap_through_the_bucket(
    world: World, lease: Lease, tmp_path: Path, placement: Placement
) -> None:
    source = with_label(world.clip, tmp_path / "labelled.mp4")
    source.write_bytes(source.read_bytes() + VENDORS)
    world.double.limits_overwrites = False
    key = f"{world.address.prefix}ann/v1.mp4"
    blob = world.video("v1", key=key, clip=source)
    outcome = swap(world.workspace, "v1", blob, shrink, Run("run", lease, Grace(), tmp_path / "scratch"), placement)
    assert outcome.action == "compressed"
    with reading(world.workspace.engine) as session:
        (listed,) = list_videos(session, video_id="v1")
    served = str(listed.key)
    assert (served == key) == (placement == "in_place")
    fetched = tmp_path / "fetched.mp4"
    fetched.write_bytes(world.workspace.bucket.read_bytes(served, 10**7))
    assert fetched.read_bytes() != source.read_bytes()
    assert label(fetched) == AI
    assert fetched.read_bytes().endswith(VENDORS)
    world.check()
