"""`up` makes only dry runs on a bucket that it did not create, until it is started with --live."""

import re
import secrets
import signal
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from prefect.client.orchestration import SyncPrefectClient

from deployments import deploy
from deployments.up import Up
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import OrchestratorError
from reelkeeper.operations.core.workspace import is_on_trial, open_workspace
from reelkeeper.operations.health.status import gather
from reelkeeper.settings import Settings
from tests.buckets import BUCKET
from tests.ports import free_port
from tests.reading import as_read

Told = dict[str, dict[str, object]]


def made(settings: Settings, told: Told | None = None, *, live: bool = False) -> Up:
    def tell(event: str, _text: str, **facts: object) -> None:
        (told if told is not None else {})[event] = facts

    return Up(settings, tell, port=free_port(), api_port=free_port(), patience=0, live=live)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> Settings:
    """A bucket that `up` did not create."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: []")
    keys = {f"s3_{name}": getattr(endpoint, name) for name in ("endpoint_url", "access_key_id", "secret_access_key")}
    return Settings.model_validate(
        keys | {"state_dir": tmp_path, "bucket": BUCKET, "prefix": f"{secrets.token_hex(4)}/"}
    )


def started(up: Up, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run it without its processes; return the names of those that it would start, in order."""
    names: list[str] = []
    monkeypatch.setattr(up.supervisor, "start", lambda part: names.append(part.name))
    monkeypatch.setattr(up.supervisor, "run", lambda part, **_: names.append(part.name))
    monkeypatch.setattr(up, "_watch", lambda: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        up.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return names


def test_its_api_may_start_runs_at_its_server(theirs: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ann:a-word")
    up = made(theirs)
    for name, value in up._environment().items():
        monkeypatch.setenv(name, value)
    found = Settings()
    assert found.prefect_api_url == f"{up.ui_url}/api"
    assert found.prefect_api_auth
    assert found.prefect_api_auth.get_secret_value() == "ann:a-word"


def test_up_changes_a_foreign_bucket_only_when_told_so(theirs: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not made(Settings(state_dir=theirs.state_dir)).looks_only  # the embedded one: made by it
    assert made(theirs).looks_only
    started(made(theirs), monkeypatch)
    made(theirs, live=True)  # killed before it claimed the bucket
    assert made(theirs).looks_only
    started(made(theirs, live=True), monkeypatch)
    assert not made(theirs).looks_only
    assert made(theirs.model_copy(update={"bucket": "another"})).looks_only


def test_another_address_is_a_trial_for_all_until_it_is_confirmed(
    theirs: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the schedules made dry runs then, while the API and every command changed the bucket."""
    started(made(theirs, live=True), monkeypatch)
    address = str(theirs.s3_endpoint_url)
    moved = theirs.model_copy(update={"s3_endpoint_url": address.replace("127.0.0.1", "localhost")})
    told: Told = {}
    for live in (False, True):
        started(made(moved, told, live=live), monkeypatch)
        assert told["ready"]["looks_only"] is not live
        assert live or str(told["ready"]["live_at"]).startswith(address)
        with open_workspace(moved) as opened:
            assert (opened.on_trial, opened.is_ours) == (not live, True)
            assert (gather(opened.engine).on_trial, is_on_trial(opened.engine, opened.bucket)) == (not live, not live)


def test_it_says_of_the_first_start_alone_that_it_takes_long_and_of_a_stop_what_is_under_way(
    theirs: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Up, "_active", lambda _: ["tier-storage dry run"])
    told: Told = {}
    for is_first in (True, False):
        started(made(theirs, told), monkeypatch)
        assert told["starting"]["first"] is is_first
        assert told["stopping"] == {"active": ["tier-storage dry run"], "patience_seconds": 0}


@pytest.mark.parametrize("damaged", ["", '{"port": 42', "[]", "\0" * 48], ids=["empty", "cut", "other", "zeros"])
def test_a_damaged_record_of_the_last_ports_stops_nothing(theirs: Settings, damaged: str) -> None:
    (theirs.state_dir / "up.json").write_text(damaged)
    assert made(theirs).looks_only


def test_on_a_bucket_of_somebody_elses_no_worker_starts_before_dry_runs_are_deployed(
    theirs: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was due while `up` was stopped has the parameters of before: it acted on a bucket that `up` only reads."""
    for live, order in ((False, ["deploy", "worker", "api"]), (True, ["worker", "api", "deploy"])):
        assert started(made(theirs, live=live), monkeypatch) == ["server", "forkserver", *order]


@pytest.mark.long
def test_a_server_that_never_answers_is_named_with_its_log_and_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "READY_SECONDS", 0.0)
    with (
        SyncPrefectClient(f"http://127.0.0.1:{free_port()}/api") as client,
        pytest.raises(OrchestratorError) as refused,
    ):
        deploy.wait_for_server(client)
    assert as_read(refused.value, folder=re.compile(r"\S+(?=/\S+\.(log|db))")) == snapshot("""\
Prefect's server gave no answer for 0 s (ConnectError): its log, server.log, says why. If its
  database is damaged, move the folder prefect out of the state folder and start again: it holds
  only records of runs, and the schedules are deployed anew\
""")
