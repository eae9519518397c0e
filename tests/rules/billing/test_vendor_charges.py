"""The table of what vendors charge for jobs without a video: complete, sourced, and careful where it is silent."""

from datetime import UTC, date, datetime

import pytest

from reelkeeper.rules.billing.vendor_charges import TABLE, Charge, Ending, may_be_charged
from tests.adapters.providers.formats import FORMATS


@pytest.mark.parametrize("vendor", sorted({name.partition(",")[0] for name in FORMATS} | {"local"}))
def test_each_vendor_has_a_row_with_its_source_for_each_way_that_a_job_ends(vendor: str) -> None:
    rows = TABLE[vendor]
    assert rows.keys() == set(Ending)
    assert all(row.source and date.fromisoformat(row.read_on) <= datetime.now(UTC).date() for row in rows.values())
    assert rows[Ending.NOT_TAKEN].charge is Charge.NO


@pytest.mark.parametrize("vendor", sorted(TABLE.keys() - {"local"}))
@pytest.mark.parametrize("ending", [Ending.LOST, Ending.IN_DOUBT, Ending.UNREADABLE, Ending.CANCELLED])
def test_what_a_vendor_made_or_may_have_made_counts(vendor: str, ending: Ending) -> None:
    assert may_be_charged(vendor, ending)


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("vendor", [None, "another"])
def test_a_vendor_without_a_row_may_charge_for_what_it_took(vendor: str | None, ending: Ending) -> None:
    assert may_be_charged(vendor, ending) == (ending is not Ending.NOT_TAKEN)
