"""`up` makes only dry runs on a bucket that it did not create, until it is started with --live."""

from pathlib import Path

import pytest

from deployments.up import Up
from reelkeeper.settings import Settings
from tests.ports import free_port


def looks_only(settings: Settings, *, live: bool = False) -> bool:
    up = Up(settings, lambda *_, **__: None, port=free_port(), api_port=free_port(), patience=0, live=live)
    return up.looks_only


def test_it_goes_live_at_a_bucket_of_somebody_elses_when_it_is_told_so_and_at_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
