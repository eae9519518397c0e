"""Usage as flows get it: collected, charged, read."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import Settings
from reelkeeper.store.billing import charges
from reelkeeper.store.core.engine import reading
from tasks import spending


def test_usage_collected_by_a_run_is_charged_and_read_back(
    sqlite_engine: sa.Engine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "settings", Settings)
    workspace = Workspace(sqlite_engine, bucket, "deployment")
    as_of = datetime.now(UTC)
    list(bucket.pages())
    assert spending.collect.fn(workspace, as_of).trouble == ""
    assert spending.charge.fn(workspace.engine, PriceBook(), as_of) == [as_of.date()]
    with reading(sqlite_engine) as session:
        charged = charges.between(session, as_of.date().replace(day=1), as_of.date())
        (listing,) = [charge for charge in charged if charge.service == "r2-class-a"]
    assert (listing.consumed_quantity, listing.list_nanousd, listing.billed_nanousd) == (1, 4_500, 0)
