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
from reelkeeper.settings import Settings
from tests.buckets import BUCKET
from tests.ports import free_port
from tests.reading import as_read


def looks_only(settings: Settings, *, live: bool = False) -> bool:
    up = Up(settings, lambda *_, **__: None, port=free_port(), api_port=free_port(), patience=0, live=live)
    return up.looks_only


def test_up_changes_a_foreign_bucket_only_when_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: []")
    at = {"s3_endpoint_url": "http://127.0.0.1:1", "s3_access_key_id": "k", "s3_secret_access_key": "s"}
    theirs = Settings.model_validate(at | {"state_dir": tmp_path, "bucket": "theirs"})
    another = Settings.model_validate(at | {"state_dir": tmp_path, "bucket": "another"})
    assert not looks_only(Settings(state_dir=tmp_path))  # the embedded one: made by it
    assert looks_only(theirs)
    assert looks_only(theirs)
    assert not looks_only(theirs, live=True)
    assert not looks_only(theirs)
    assert looks_only(another)


@pytest.mark.parametrize("damaged", ["", '{"port": 42', "[]", "\0" * 48], ids=["empty", "cut", "other", "zeros"])
def test_a_damaged_record_of_the_last_time_stops_nothing_and_sends_nothing_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: []")
    at = {"s3_endpoint_url": "http://127.0.0.1:1", "s3_access_key_id": "k", "s3_secret_access_key": "s"}
    theirs = Settings.model_validate(at | {"state_dir": tmp_path, "bucket": "theirs"})
    assert not looks_only(theirs, live=True)
    (tmp_path / "up.json").write_text(damaged)
    assert looks_only(theirs)
    assert not looks_only(theirs, live=True)
    assert not looks_only(theirs)


def test_on_a_bucket_of_somebody_elses_no_worker_starts_before_dry_runs_are_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    """What was due while `up` was stopped has the parameters of before: it acted on a bucket that `up` only reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: []")
    address = {name: getattr(endpoint, name) for name in ("access_key_id", "secret_access_key")}
    at = {"s3_endpoint_url": endpoint.endpoint_url, **{f"s3_{name}": value for name, value in address.items()}}
    theirs = Settings.model_validate(
        at | {"state_dir": tmp_path, "bucket": BUCKET, "prefix": f"{secrets.token_hex(4)}/"}
    )
    for live, order in ((False, ["server", "deploy", "worker", "api"]), (True, ["server", "worker", "api", "deploy"])):
        up = Up(theirs, lambda *_, **__: None, port=free_port(), api_port=free_port(), patience=0, live=live)
        started: list[str] = []
        monkeypatch.setattr(up.supervisor, "start", lambda part, started=started: started.append(part.name))
        monkeypatch.setattr(up.supervisor, "run", lambda part, started=started, **_: started.append(part.name))
        monkeypatch.setattr(up, "_watch", lambda: None)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            up.run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert started == order


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
