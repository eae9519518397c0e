"""Jobs of a vendor's account matched with ours, the missing ones, and when that is not conclusive."""

from datetime import UTC, datetime, timedelta

import pytest

from reelkeeper.model.money import SentJob, VendorJob
from reelkeeper.rules.billing.vendor_bill import compare

FIRST, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
JOB = SentJob("j1", "j1-2", "v1", NOON, NOON + timedelta(minutes=5), 40)
ENTRY = VendorJob("v1", "veo", NOON, 40_000)


def test_each_attempt_is_a_job_of_its_own() -> None:
    lost = JOB._replace(key="j1-1", vendor_id=None, cost_microusd=0)
    entries = [ENTRY, ENTRY._replace(id="v0", mark="of j1-1", cost_nanousd=500)]
    found = compare([JOB, lost], entries, {"of j1-1": "j1-1", "of j1-2": "j1-2"}, FIRST, END)
    (bill,) = found.differing
    assert (len(found.both), found.requests, found.only_theirs) == (2, 1, ())
    assert (bill.job_id, bill.vendor_id, bill.difference_nanousd) == ("j1", "v0", 500)
    assert (found.ours_nanousd, found.theirs_nanousd) == (40_000, 40_500)


def test_an_attempt_that_was_not_recorded_is_known_by_its_mark() -> None:
    found = compare([JOB], [ENTRY._replace(id="v0", mark="of j1-1")], {"of j1-1": "j1-1"}, FIRST, END)
    assert [(bill.job_id, bill.vendor_id, bill.ours_nanousd) for bill in found.both] == [("j1", "v0", None)]
    assert [job.key for job in found.only_ours] == ["j1-2"]


@pytest.mark.parametrize(
    ("changes", "is_missing"),
    [
        ({}, True),
        ({"vendor_id": None}, True),  # in doubt to its end: it counts as spent
        ({"cost_microusd": 0}, False),  # its vendor charges nothing for how it ended
        ({"sent_at": FIRST - timedelta(seconds=1)}, False),  # in the month before, or in this one
        ({"ended_at": END}, False),
        ({"ended_at": None}, False),
    ],
)
def test_a_job_is_missing_only_if_the_vendor_should_have_listed_it(
    changes: dict[str, object], is_missing: bool
) -> None:
    found = compare([JOB._replace(**changes)], [], {}, FIRST, END)  # type: ignore[arg-type]  # fields by name
    assert len(found.only_ours) == is_missing
    assert found.ours_nanousd == (40_000 if is_missing else 0)


def test_a_job_of_the_month_before_that_is_listed_in_this_one_counts_here() -> None:
    found = compare([JOB._replace(sent_at=FIRST - timedelta(hours=1))], [ENTRY], {}, FIRST, END)
    assert (len(found.both), found.differing) == (1, [])


def test_the_vendors_sum_is_unknown_if_one_cost_is_missing() -> None:
    found = compare([JOB], [ENTRY, ENTRY._replace(id="v9", cost_nanousd=None)], {}, FIRST, END)
    assert (found.theirs_nanousd, [entry.id for entry in found.only_theirs]) == (None, ["v9"])
