"""Store and bucket are opened only if they belong together and their clocks agree."""

import pytest

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.operations.core.workspace import join
from tests.faults.world import World
from tests.operations.clocks import MovedClock


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_bucket_whose_clock_is_wrong_is_not_opened(world: World, seconds: float) -> None:
    world.double.faults.skew_seconds = seconds
    with pytest.raises(IntegrityDoubt, match="the bucket's"):
        world.address.workspace()


def test_a_store_whose_clock_is_wrong_is_not_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    MovedClock(monkeypatch).ahead_seconds = 120
    with pytest.raises(IntegrityDoubt, match="the store's"):
        world.address.workspace()


def test_a_bucket_that_has_not_kept_the_contract_keeps_what_is_the_services(world: World) -> None:
    assert not join(world.workspace.engine, world.workspace.bucket).keeps_contract
