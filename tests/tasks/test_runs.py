"""Names of runs, in a list with 288 a day."""

from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import runtime

from tasks import runs


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"dry_run": False}, "dispatch-jobs 2026-11-25 02:05"),
        ({}, "dispatch-jobs dry run 2026-11-25 02:05"),
        ({"as_of": "2026-11-24T01:30:00+02:00"}, "dispatch-jobs dry run 2026-11-23 23:30"),
        ({"as_of": datetime(2026, 11, 24, 6, tzinfo=UTC)}, "dispatch-jobs dry run 2026-11-24 06:00"),
    ],
)
def test_a_run_is_named_for_its_flow_and_the_minute_that_it_was_due(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], name: str
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "dispatch-jobs")
    monkeypatch.setattr(runtime.flow_run, "parameters", parameters, raising=False)
    monkeypatch.setattr(runs, "scheduled_time", lambda: datetime(2026, 11, 25, 2, 5, tzinfo=UTC))
    assert runs.run_name() == name
