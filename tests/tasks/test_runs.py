"""Names of runs, in a list with 288 a day."""

from datetime import UTC, datetime
from typing import Any

import pytest
from inline_snapshot import snapshot
from prefect import runtime

from tasks import runs

PARAMETERS: tuple[dict[str, Any], ...] = (
    {"dry_run": False},
    {},
    {"as_of": "2026-11-24T01:30:00+02:00"},
    {"as_of": datetime(2026, 11, 24, 6, tzinfo=UTC)},
)


def test_a_run_is_named_for_its_flow_and_the_minute_that_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "dispatch-jobs")
    monkeypatch.setattr(runs, "scheduled_time", lambda: datetime(2026, 11, 25, 2, 5, tzinfo=UTC))
    names = []
    for parameters in PARAMETERS:
        monkeypatch.setattr(runtime.flow_run, "parameters", parameters, raising=False)
        names.append(runs.run_name())
    assert names == snapshot(
        [
            "dispatch-jobs 2026-11-25 02:05",
            "dispatch-jobs dry run 2026-11-25 02:05",
            "dispatch-jobs dry run 2026-11-23 23:30",
            "dispatch-jobs dry run 2026-11-24 06:00",
        ]
    )
