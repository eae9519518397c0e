"""What a run only shows ends no run."""

import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import show
from tests.ports import free_port


def test_a_run_goes_on_without_what_prefects_server_does_not_take(caplog: pytest.LogCaptureFixture) -> None:
    away = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: away}), disable_run_logger():
        show("report", "What it did", ["Nothing."])
    assert not caplog.records
