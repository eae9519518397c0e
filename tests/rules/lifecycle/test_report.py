"""What the report of a run says is less stored, and from when on."""

import re

import pytest

from reelkeeper.model import Done, Grace
from reelkeeper.rules.lifecycle.report import less_stored

COMPRESSED, RETIRED = Done("compressed", 2, 10**7, 4_600_000), Done("retired", 1, 2 * 10**6, 0)
PURGED, REFUSED = Done("purged", 3, 3 * 10**6, 0), Done("refused", 1, 10**6, 10**6)


@pytest.mark.parametrize(
    ("done", "grace", "sizes", "days"),
    [
        ([COMPRESSED, REFUSED, RETIRED], Grace(), ["7.4 MB", "4.6 MB"], ["7", "14"]),  # less later, more until then
        ([RETIRED], Grace(9, 9), ["2.0 MB"], ["9"]),
        ([PURGED], None, ["3.0 MB"], []),  # at once
        ([REFUSED], Grace(), [], []),
    ],
)
def test_a_run_says_what_is_less_after_the_grace_and_what_is_more_until_then(
    done: list[Done], grace: Grace | None, sizes: list[str], days: list[str]
) -> None:
    said = less_stored(done, grace)
    assert re.findall(r"[\d.]+ [kMG]B", said) == sizes
    assert re.findall(r"(\d+) (?:days?|at your)", said) == days
