"""The service deletes what a listing has seen, and the event is handled before the listing ends."""

from collections.abc import Callable

import pytest

from reelkeeper.model import Grace
from reelkeeper.operations.sync import sync
from reelkeeper.operations.sync.survey import confirm_there, survey
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, videos
from tests.operations.changes import change
from tests.operations.sync.queue_scene import Service

NAME = "ann/v1.mp4"


def overwrite(service: Service) -> None:
    service.put(NAME, b"another video")


def lose(service: Service) -> None:
    change(service.world, blobs, state="lost")
    change(service.world, videos, state="lost")


@pytest.mark.parametrize("before", [overwrite, lose])
def test_what_is_deleted_while_a_listing_runs_is_gone(
    service: Service, lease: Lease, before: Callable[[Service], None]
) -> None:
    workspace = service.world.workspace
    service.put(NAME)
    service.follow()
    before(service)
    found = survey(workspace, run_id="run", note=True)
    assert len(found.overwritten + found.found) == 1
    service.delete(NAME)
    service.follow()
    confirm_there(workspace, found)
    sync.mend(workspace, found, lease=lease, run_id="run", grace=Grace())
    assert service.state(NAME) == ("gone", "gone")
