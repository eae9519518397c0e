"""The alert about a failed flow run."""

import pytest

from reelkeeper.rules.alerts.alerting import RULES, Trouble, finding


@pytest.mark.parametrize("trouble", Trouble)
def test_the_finding_of_a_failed_run_says_what_happened_where_to_look_and_what_to_do(trouble: Trouble) -> None:
    found = finding(trouble, "tier-storage", run_name="tier-storage 2026-11-24", message="why", url="http://ui/run")
    assert found.rule in RULES
    assert found.scope == "flow:tier_storage"
    assert found.title.startswith("A run of tier_storage ")
    assert found.text == "why"
    assert dict(found.figures) == {"Run": "tier-storage 2026-11-24", "Look": "http://ui/run"}
    assert "reelkeeper run tier_storage --apply" in found.suggestion


def test_the_finding_of_a_run_without_a_url_has_no_link() -> None:
    assert dict(finding(Trouble.LATE, "f", run_name="r").figures) == {"Run": "r"}
