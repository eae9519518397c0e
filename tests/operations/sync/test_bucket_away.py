"""A bucket that is unreachable or refuses us: reported with host, port and setting, in time, without secrets."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import SecretStr

from reelkeeper.adapters.s3 import seaweed
from reelkeeper.errors import Misconfigured, ReelkeeperError, StorageError
from reelkeeper.operations.core import workspace
from reelkeeper.operations.core.workspace import open_bucket
from reelkeeper.settings import Settings
from tests.doubles.r2 import R2Double
from tests.marks import marked
from tests.ports import free_port

SECRET = "a-secret-of-the-buckets"  # noqa: S105  of no bucket that there is
Refused = Callable[..., str]


@pytest.fixture
def refused(double: R2Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Open the bucket as a command does, with other settings than the right ones; return what it says."""
    monkeypatch.chdir(tmp_path)
    at = double.endpoint

    def refused(kind: type[ReelkeeperError], within: float, **wrong: Any) -> str:  # noqa: ANN401  settings
        right = {
            "s3_endpoint_url": at.endpoint_url,
            "s3_access_key_id": at.access_key_id,
            "s3_secret_access_key": at.secret_access_key,
            "bucket": "reelkeeper",
        }
        began = time.monotonic()
        with pytest.raises(kind) as told, open_bucket(Settings(**{**right, **wrong})):
            pass
        assert time.monotonic() - began < within
        said = str(told.value)
        assert SECRET not in said
        assert at.secret_access_key not in said
        return said

    return refused


def test_a_missing_bucket_and_wrong_keys_are_explained(refused: Refused, double: R2Double) -> None:
    port = double.endpoint.endpoint_url.rpartition(":")[2]
    said = refused(Misconfigured, 10, bucket="nowhere")
    assert marked(said, PORT=port) == snapshot(
        "bucket 'nowhere' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: NoSuchBucket: The specified bucket does not exist (create it, or correct REELKEEPER_BUCKET, or --bucket of a scan)"
    )
    assert "REELKEEPER_S3_ACCESS_KEY_ID" in refused(Misconfigured, 10, s3_access_key_id="0" * 32)
    assert "REELKEEPER_S3_SECRET_ACCESS_KEY" in refused(Misconfigured, 10, s3_secret_access_key=SECRET)


def test_a_token_without_permission_is_a_wrong_setting(refused: Refused, double: R2Double) -> None:
    double.faults.fail("GetObject", 403, times=100)
    port = double.endpoint.endpoint_url.rpartition(":")[2]
    assert marked(refused(Misconfigured, 10), PORT=port) == snapshot(
        "bucket 'reelkeeper' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: AccessDenied: injected by a test (check the name of the bucket, and that the API token may read it)"
    )


def test_a_refused_connection_is_explained(refused: Refused) -> None:
    port = free_port()
    said = refused(StorageError, 20, s3_endpoint_url=f"http://127.0.0.1:{port}")
    assert marked(said, PORT=port) == snapshot(
        "bucket 'reelkeeper' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: EndpointConnectionError: Could not connect to the endpoint URL: \"http://127.0.0.1:PORT/reelkeeper/videos/.reelkeeper-identity.json\" (127.0.0.1, port PORT: nothing listens there: check that the server runs; REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL has the address of the bucket)"
    )


def test_an_unknown_host_is_explained(refused: Refused) -> None:
    said = refused(StorageError, 30, s3_endpoint_url="https://bucket.invalid")
    assert said == snapshot(
        "bucket 'reelkeeper' at bucket.invalid, port 443: GET videos/.reelkeeper-identity.json: EndpointConnectionError: Could not connect to the endpoint URL: \"https://bucket.invalid/reelkeeper/videos/.reelkeeper-identity.json\" (bucket.invalid, port 443: no address is known for that name; REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL has the address of the bucket)"
    )


def test_a_server_that_never_answers_is_given_up(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workspace._OPENING.attempts * workspace._OPENING.silence_seconds + 7 < 45
    monkeypatch.setattr(workspace, "_OPENING", workspace._OPENING._replace(silence_seconds=1.0))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        port = silent.getsockname()[1]
        said = refused(StorageError, 20, s3_endpoint_url=f"http://127.0.0.1:{port}")
        assert marked(said, PORT=port) == snapshot(
            "bucket 'reelkeeper' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: ReadTimeoutError: Read timeout on endpoint URL: \"http://127.0.0.1:PORT/reelkeeper/videos/.reelkeeper-identity.json\" (127.0.0.1, port PORT: it accepts requests but does not answer: check the server, or a proxy in front of it; REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL has the address of the bucket)"
        )


def test_tls_where_none_is_spoken(refused: Refused, double: R2Double) -> None:
    said = refused(StorageError, 20, s3_endpoint_url=double.endpoint.endpoint_url.replace("http:", "https:"))
    port = double.endpoint.endpoint_url.rpartition(":")[2]
    assert re.sub(r"_ssl.c:\d+", "_ssl.c", marked(said, PORT=port)) == snapshot(
        "bucket 'reelkeeper' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: SSLError: SSL validation failed for https://127.0.0.1:PORT/reelkeeper/videos/.reelkeeper-identity.json [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c) (127.0.0.1, port PORT: the TLS handshake failed: check http or https, and the certificate; REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL has the address of the bucket)"
    )


def test_a_server_that_fails_for_long_and_one_that_fails_for_a_moment(refused: Refused, double: R2Double) -> None:
    double.faults.fail("GetObject", 503, times=2)
    at = double.endpoint
    right = Settings(
        s3_endpoint_url=at.endpoint_url,
        s3_access_key_id=SecretStr(at.access_key_id),
        s3_secret_access_key=SecretStr(at.secret_access_key),
    )
    with open_bucket(right):
        pass
    double.faults.fail("GetObject", 503, times=100)
    assert "SlowDown" in refused(StorageError, 30)


@pytest.mark.long
def test_a_real_server_that_is_stopped(refused: Refused, tmp_path: Path) -> None:
    with seaweed.running(tmp_path / "s3") as at:
        port = at.endpoint_url.rpartition(":")[2]
    said = refused(
        StorageError,
        30,
        s3_endpoint_url=at.endpoint_url,
        s3_access_key_id=at.access_key_id,
        s3_secret_access_key=at.secret_access_key,
    )
    assert marked(said, PORT=port) == snapshot(
        "bucket 'reelkeeper' at 127.0.0.1, port PORT: GET videos/.reelkeeper-identity.json: EndpointConnectionError: Could not connect to the endpoint URL: \"http://127.0.0.1:PORT/reelkeeper/videos/.reelkeeper-identity.json\" (127.0.0.1, port PORT: nothing listens there: check that the server runs; REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL has the address of the bucket)"
    )
