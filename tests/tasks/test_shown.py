"""What a run only shows ends no run."""

import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import show
from tests.doubles.prefect_api import PrefectDouble
from tests.ports import free_port


def shown_at(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}), disable_run_logger():
        show("report", "What it did", ["Nothing."])


def test_a_run_goes_on_without_what_prefects_server_does_not_take(caplog: pytest.LogCaptureFixture) -> None:
    shown_at(f"http://127.0.0.1:{free_port()}/api")
    with PrefectDouble().serving() as failing:
        failing.status = 500  # as a real one answers to one of two runs that show an artifact of one key at once
        shown_at(failing.url)
        assert "/api/artifacts/" in failing.asked
    assert not caplog.records


def test_a_run_ends_where_prefects_server_does_not_understand_it() -> None:
    with PrefectDouble().serving() as other, pytest.raises(PrefectHTTPStatusError):
        shown_at(other.url)
