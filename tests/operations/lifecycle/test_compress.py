"""Whoever works on a plan asks before each video whether to go on."""

import pytest

from reelkeeper.errors import Frozen, LeaseLost
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.lifecycle.compress import may_go_on
from reelkeeper.store.core.leases import Lease
from tests.faults.world import World


def test_nobody_goes_on_for_a_plan_that_is_over_a_run_that_is_gone_or_while_frozen(world: World, lease: Lease) -> None:
    assert not may_go_on(world.workspace.engine, "over", lease)
    world.expire_leases()
    with pytest.raises(LeaseLost, match="its run has ended, or sleeps"):
        may_go_on(world.workspace.engine, "any", lease)
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen, match="an alarm"):
        may_go_on(world.workspace.engine, "any", lease)
