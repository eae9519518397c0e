"""`scan`: a picture of a bucket with nothing but reads, and without a store."""

import json
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.settings import Settings
from tests.buckets import BUCKET, bare_boto3
from tests.cli.conftest import Run
from tests.doubles.r2 import R2Double

COMMAND = Path(sys.executable).with_name("reelkeeper")
Ask = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("no_store")


@pytest.fixture
def filled(double: R2Double, prefix: str, tiny_clip: Path) -> str:
    """Four users' videos and two images; return their folder. `double.requests` begins after it."""
    client = bare_boto3(double.endpoint)
    for user in ("ann", "auth0|5f7c", "gina@example.com", "Zoe K"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}{user}/one.mp4", Body=tiny_clip.read_bytes())
    for n in range(2):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}ann/{n}.jpg", Body=b"image")
    double.requests.clear()
    return prefix


def only_reads(double: R2Double) -> bool:
    return {request.method for request in double.requests} <= {"GET", "HEAD"}


@pytest.mark.usefixtures("filled")
def test_it_reads_and_leaves_nothing_behind(
    ask: Ask, double: R2Double, configured: Settings, tmp_path: Path, tiny_clip: Path
) -> None:
    found = ask("scan", "--html", tmp_path / "page.html")
    size_bytes = tiny_clip.stat().st_size
    assert (found["total"]["objects"], found["total"]["size_bytes"]) == (6, 4 * size_bytes + 10)
    assert {part["name"]: part["size_bytes"] for part in found["users"]} == {
        "ann": size_bytes + 10,
        **dict.fromkeys(("auth0|5f7c", "gina@example.com", "Zoe K"), size_bytes),
    }
    assert (found["stopped"], found["billed_usd"], found["sample"]) == ("", "0.000", None)
    assert found["duplicates"]["objects"] == 4
    assert only_reads(double)
    assert not configured.state_dir.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.usefixtures("filled")
def test_a_page_that_could_not_be_written_is_told_before_anything_is_listed(
    reelkeeper: Run, double: R2Double, tmp_path: Path
) -> None:
    reelkeeper("scan", "--html", tmp_path / "none" / "page.html", exit_code=2)
    assert double.requests == []


def test_the_terminal_has_the_levers_and_every_user(reelkeeper: Run, filled: str) -> None:
    shown = reelkeeper("scan", "--prefix", filled, "--pattern", "{user}/{video}.{ext}").stdout
    assert {"auth0|5f7c", "gina@example.com", "Compress"} <= {*shown.split()}


def test_a_wrong_prefix_says_where_the_objects_are(
    reelkeeper: Run, ask: Ask, double: R2Double, configured: Settings
) -> None:
    name = f"scan-{secrets.token_hex(6)}"
    double.client.create_bucket(Bucket=name)
    ask("scan", "--bucket", name, exit_code=8)
    for key in ("a.mp4", "t/1.jpg", "u/ann/1.mp4", "u/ann/2.mp4", "u/bob/1.mp4", "z.mp4"):
        double.client.put_object(Bucket=name, Key=key, Body=b"12345")
    found = ask("scan", "--bucket", name, "--prefix", "videos/", exit_code=8)
    assert found["scan"]["total"]["objects"] == 0
    assert [[*part.values()][:3] for part in found["elsewhere"]["counted"]] == [["u/", 3, 15], ["t/", 1, 5]]
    assert (found["elsewhere"]["outside"]["objects"], found["elsewhere"]["uncounted"]) == (2, [])
    said = reelkeeper("scan", "--bucket", name, "--prefix", "videos/", exit_code=8).stderr
    assert {"videos/;", "u/", "(3"} <= {*said.split()}
    assert ask("scan", "--bucket", name, "--prefix", "/")["total"]["objects"] == 6
    assert only_reads(double)
    assert not configured.state_dir.exists()


def test_without_a_bucket_nothing_is_started(
    reelkeeper: Run, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"REELKEEPER_{name}")
    reelkeeper("scan", exit_code=2)
    assert not configured.state_dir.exists()


@pytest.mark.parametrize("given", [("--prefix", "u"), ("--pattern", "{user}"), ("--bucket", "no-such-bucket")])
def test_what_is_given_is_checked_and_named_as_it_was_given(reelkeeper: Run, given: tuple[str, str]) -> None:
    said = reelkeeper("scan", *given, exit_code=2).stderr
    assert given[0] in said
    assert "environment" not in said


def test_an_endpoint_that_is_no_address_is_named_by_its_setting(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "127.0.0.1:9000")
    assert "REELKEEPER_S3_ENDPOINT_URL:" in reelkeeper("scan", exit_code=2).stderr


def test_a_sample_is_encoded_here_and_leaves_nothing_behind(
    ask: Ask, double: R2Double, filled: str, configured: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    bare_boto3(double.endpoint).put_object(Bucket=BUCKET, Key=f"{filled}ann/broken.mp4", Body=b"no video")
    double.requests.clear()
    sample = ask("scan", "--sample", 9, "--seed", 7)["sample"]
    rules = {clip["key"].removeprefix(filled): clip["rule"] for clip in sample["clips"]}
    assert (sample["seed"], len(rules), rules["ann/broken.mp4"]) == (7, 5, "not_a_video")
    assert "payback" not in rules.values()  # what they keep is asked, whether that pays or not
    for clip in sample["clips"]:
        assert (clip["kept_bytes"] < clip["size_bytes"]) == (clip["rule"] == "accepted")
    assert only_reads(double)
    assert not list(scratch.iterdir())
    assert not configured.state_dir.exists()


@pytest.mark.usefixtures("filled")
def test_ctrl_c_shows_what_is_known(double: R2Double, configured: Settings, tmp_path: Path) -> None:
    double.listings.page_keys = 1
    reached = threading.Event()

    def slow(_: object) -> None:
        if len(double.sent("ListObjectsV2")) == 4:
            reached.set()
            threading.Event().wait(2)

    double.faults.before("ListObjectsV2", slow, times=9)
    process = subprocess.Popen(
        [COMMAND, "scan", "--json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    found = json.loads(shown)
    assert (process.returncode, found["stopped"], found["total"]["objects"]) == (130, "interrupted", 3)
    assert not found["is_listed"]
    assert not configured.state_dir.exists()


@pytest.mark.long("a process of its own, which samples clips")
@pytest.mark.usefixtures("filled", "configured")
def test_ctrl_c_in_the_sample_keeps_the_clips_that_are_done(double: R2Double, tmp_path: Path) -> None:
    reached, served = threading.Event(), list[object]()

    def slow(request: Any) -> None:  # noqa: ANN401  of the double
        served.append(request)
        if len(served) == 4:  # after the identity and two clips
            reached.set()
            threading.Event().wait(2)

    double.faults.before("GetObject", slow, times=9)
    command = (str(COMMAND), "scan", "--json", "--sample", "4")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    found = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, found["stopped"], len(found["sample"]["clips"])) == (130, "interrupted", 2)
    assert (found["is_listed"], found["total"]["objects"], found["sample"]["untried"]) == (True, 6, 2)


@pytest.mark.usefixtures("filled")
def test_a_token_that_may_not_read_the_bucket_is_not_asked_to_write(reelkeeper: Run, double: R2Double) -> None:
    for operation in ("GetObject", "ListObjectsV2"):
        double.faults.fail(operation, 403, times=100)
    told = reelkeeper("scan", exit_code=2).stderr
    assert "AccessDenied" in told
    assert "Write" not in told
