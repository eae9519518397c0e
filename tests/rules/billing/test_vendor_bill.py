"""Jobs of a vendor's account matched with ours, the missing ones, and when that is not conclusive."""

from datetime import UTC, datetime, timedelta

import pytest

from reelkeeper.model.money import SentJob, VendorJob
from reelkeeper.rules.billing.vendor_bill import compare, never_made

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


IN_DOUBT = [
    JOB._replace(key=f"j{n}-1", job_id=f"j{n}", vendor_id=None, cost_microusd=cost) for n, cost in ((2, 40), (3, 50))
]


@pytest.mark.parametrize(
    ("strangers", "never_came"),
    [(0, ["j3-1", "j2-1"]), (1, ["j2-1"]), (2, []), (3, [])],
)
def test_a_job_in_doubt_ends_where_no_job_of_the_vendor_can_be_it(strangers: int, never_came: list[str]) -> None:
    others = [ENTRY._replace(id=f"s{number}") for number in range(strangers)]
    found = compare([JOB, *IN_DOUBT], [ENTRY, *others], {}, FIRST, END)
    assert [job.key for job in never_made(found, FIRST, END)] == never_came


@pytest.mark.parametrize(
    ("sum_microusd", "never_came"),
    [(40, ["j3-1", "j2-1"]), (41, ["j2-1"]), (90, ["j2-1"]), (91, []), (130, [])],
)
def test_a_vendors_sum_leaves_room_for_the_dearest_jobs_in_doubt(sum_microusd: int, never_came: list[str]) -> None:
    total = VendorJob(None, "veo", NOON, sum_microusd * 1_000)
    found = compare([JOB, *IN_DOUBT], [total], {}, FIRST, END)
    assert [job.key for job in never_made(found, FIRST, END)] == never_came
    left = found.ours_nanousd - 1_000 * sum(job.cost_microusd or 0 for job in IN_DOUBT if job.key in never_came)
    assert left >= sum_microusd * 1_000, "less than the vendor takes"


@pytest.mark.parametrize(
    "changes",
    [
        {"sent_at": NOON + timedelta(seconds=1)},  # the account may lack it yet
        {"vendor_id": "v7"},  # it was taken; the account may have forgotten it
    ],
)
def test_a_job_that_may_be_missing_in_the_account_stays_in_doubt(changes: dict[str, object]) -> None:
    late = IN_DOUBT[0]._replace(**changes)  # type: ignore[arg-type]  # fields by name
    for entries in ([ENTRY], [VendorJob(None, "veo", NOON, 40_000)]):
        found = compare([JOB, late], entries, {}, FIRST, END)
        assert never_made(found, FIRST, NOON + timedelta(seconds=1)) == []


def test_an_account_that_knows_no_job_of_ours_ends_no_doubt() -> None:
    assert never_made(compare(IN_DOUBT, [], {}, FIRST, END), FIRST, END) == []
