"""The alert about a failed flow run."""

import pytest
from inline_snapshot import snapshot

from reelkeeper.rules.alerts.alerting import RULES, Trouble, finding


@pytest.mark.parametrize(
    ("trouble", "title", "suggestion"),
    [
        (
            Trouble.FAILED,
            snapshot("A run of tier_storage failed"),
            snapshot(
                "Its logs say why. What was done is kept, and the next run does the rest. To run it now: reelkeeper run tier_storage --apply"
            ),
        ),
        (
            Trouble.CRASHED,
            snapshot("A run of tier_storage crashed: the process that ran it is gone"),
            snapshot(
                "The next run finishes its work. If it happens again, check the worker's memory, disk and log. To run it now: reelkeeper run tier_storage --apply"
            ),
        ),
        (
            Trouble.LATE,
            snapshot("A run of tier_storage has not begun in time"),
            snapshot(
                "Check that its work pool is not paused and has a running worker. To run it now: reelkeeper run tier_storage --apply"
            ),
        ),
    ],
)
def test_the_finding_of_a_failed_run_says_what_happened_where_to_look_and_what_to_do(
    trouble: Trouble, title: str, suggestion: str
) -> None:
    found = finding(trouble, "tier-storage", run_name="tier-storage 2026-11-24", message="why", url="http://ui/run")
    assert found.rule in RULES
    assert found.scope == "flow:tier_storage"
    assert found.title == title
    assert found.text == "why"
    assert dict(found.figures) == {"Run": "tier-storage 2026-11-24", "Look": "http://ui/run"}
    assert found.suggestion == suggestion


def test_the_finding_of_a_run_without_a_url_has_no_link() -> None:
    assert dict(finding(Trouble.LATE, "f", run_name="r").figures) == {"Run": "r"}
