"""`up --live` on a bucket that it did not create: it shows what would be done first, and asks."""

import json
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.operations.core.workspace import open_bucket
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store
from tests.cli.conftest import Run
from tests.doubles.r2 import R2Double
from tests.policies import put_in_force
from tests.reading import as_read

MISCONFIGURED, REFUSED = 2, 9


def stored(settings: Settings) -> list[str]:
    with open_bucket(settings) as bucket:
        return [each.key for page in bucket.pages() for each in page]


@pytest.fixture(autouse=True)
def at(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  `up` finds its store
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_without_consent_nothing_goes_live(reelkeeper: Run, configured: Settings, double: R2Double) -> None:
    """Nobody answers: standard input is at its end, as where a script or systemd starts it."""
    said = reelkeeper("up", "--live", exit_code=1)
    assert as_read(said.output.replace(configured.prefix, "videos/")) == snapshot("""\
What going live would change, and the first run of each flow, by what the store knows now:
flow UTC will bytes $ a month
up --live now claim the bucket: write
videos/.reelkeeper-identity.json
tier_storage 02:00 nothing
expire_videos 03:00 nothing
purge_retired 04:00 nothing
prune_cache 05:00 nothing
The catalogue is empty, so what there will be to do is not known: start it without --live first,
  which takes in what is stored and changes nothing
The line of up --live is all that going live itself writes. From then on, under 'videos/': what
  compresses writes the result and, in place, a copy of the original; what retires writes nothing,
  and what is retired stays stored until purge_retired deletes it; what deletes, restores or holds
  first writes to videos/.epochs/; a restore puts originals back; jobs and uploads write videos
  and images; doctor writes videos/.reelkeeper-probe, once.
Go live? [y/N]:Aborted.\
""")
    # The right to write was asked for by a part of no upload, which nothing can store.
    assert [request.operation for request in double.requests if request.writes] == ["UploadPart"]
    assert stored(configured) == []
    assert not (configured.state_dir / "up.json").exists()


@pytest.mark.parametrize("code", ["AccessDenied", "Unauthorized"])
def test_keys_that_may_only_read_are_refused_before_anybody_agrees(
    reelkeeper: Run, configured: Settings, double: R2Double, code: str
) -> None:
    """They were after it, with Prefect started: a person said yes to what could not happen."""
    double.faults.fail("UploadPart", 403, code=code)
    for answer in ([], ["--yes"]):
        double.faults.fail("UploadPart", 403, code=code)
        said = reelkeeper("up", "--live", *answer, exit_code=MISCONFIGURED)
        assert "Go live?" not in said.output
    assert (stored(configured), (configured.state_dir / "up.json").exists()) == ([], False)


def test_a_whole_bucket_around_another_stores_folder_is_refused_before_anybody_agrees(
    reelkeeper: Run, configured: Settings, double: R2Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = f"!{configured.prefix.partition('/')[0]}/.reelkeeper-identity.json"  # among the first folders
    double.client.put_object(Bucket=configured.bucket, Key=theirs, Body=b'{"deployment": "another"}')
    monkeypatch.setenv("REELKEEPER_PREFIX", "/")
    try:
        assert "Go live?" not in reelkeeper("up", "--live", exit_code=REFUSED).output
    finally:
        double.client.delete_object(Bucket=configured.bucket, Key=theirs)


def test_programs_read_it_as_an_event(reelkeeper: Run) -> None:
    event = json.loads(reelkeeper("up", "--live", "--json", exit_code=1).stdout.splitlines()[0])
    assert event["event"] == "first night"
    assert {line["flow"]: line["will"] for line in event["lines"]}["purge_retired"] == "nothing"


@pytest.mark.usefixtures("one_video")
def test_what_the_limits_of_a_run_refuse_is_not_shown_as_its_work(
    reelkeeper: Run, configured: Settings, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text("id,tier,created_at\nann,free,2026-01-01T00:00:00Z\n")
    reelkeeper("videos", "import", "--users", tmp_path / "users.csv")
    for limit, will in ((500, "retire"), (0, "nothing,")):
        with open_store(configured) as engine:
            put_in_force(engine, limits=BlastRadius(max_objects=limit))
        event = json.loads(reelkeeper("up", "--live", "--json", exit_code=1).stdout.splitlines()[0])
        assert [line["will"].split()[0] for line in event["lines"] if line["flow"] == "expire_videos"] == [will]
        assert (DEFAULTS.tiers.as_defaults(DEFAULTS.lifecycle.retire_after_days) in event["text"]) is (
            will == "retire"
        )  # a refused plan is not explained


@pytest.mark.parametrize("words", [("up", "--live"), ("worker", "main")])
def test_a_folder_for_runs_that_is_missing_is_refused_before_anything_starts(
    reelkeeper: Run, configured: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    home = tmp_path / "moved"
    monkeypatch.setenv("REELKEEPER_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "1000")
    refused = reelkeeper(*words, exit_code=MISCONFIGURED)
    assert str(home) in refused.output
    assert not home.exists()
    assert not (configured.state_dir / "up.lock").exists()
