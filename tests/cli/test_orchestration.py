"""What Prefect is told: read by Prefect itself, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from reelkeeper.cli.orchestration import EVENT_DAYS, RUN_DAYS, SERVER

READ = """
import json
from prefect.settings import get_current_settings
server = get_current_settings().server
vacuum = server.services.db_vacuum
print(json.dumps({
    "kinds": sorted(vacuum.enabled_vacuum_types),
    "run_days": vacuum.retention_period.days,
    "event_days": server.events.retention_period.days,
    "telemetry": server.analytics_enabled,
}))
"""


@pytest.mark.long
def test_prefect_takes_what_keeps_its_database_from_growing_without_end() -> None:
    told = subprocess.run(
        [sys.executable, "-c", READ], env=os.environ | SERVER, capture_output=True, text=True, check=True, timeout=280
    )
    assert json.loads(told.stdout) == {
        "kinds": ["events", "flow_runs", "orphans"],
        "run_days": RUN_DAYS,
        "event_days": EVENT_DAYS,
        "telemetry": False,
    }
