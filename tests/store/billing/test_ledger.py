"""Credits are moved as a whole or not at all."""

import pytest
import sqlalchemy as sa

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.store.billing.ledger import move
from reelkeeper.store.core.engine import transaction
from tests.operations.books import balances, make_user


@pytest.mark.parametrize("amounts", [{"user/ann": -5, "held/ann": 4}, {"user/ann": -5, "held/nobody": 5}])
def test_a_transfer_that_is_not_even_or_has_no_receiver_moves_nothing(
    sqlite_engine: sa.Engine, amounts: dict[str, int]
) -> None:
    make_user(sqlite_engine, "ann", 9)
    with pytest.raises(IntegrityDoubt), transaction(sqlite_engine, "test") as session:
        move(session, amounts)
    assert balances(sqlite_engine, "ann") == (9, 0)
