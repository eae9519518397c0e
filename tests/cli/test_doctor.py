"""`doctor`: all parts are checked, and broken ones reported with a remedy."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters import contract
from reelkeeper.adapters.contract import CHECKS
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import Refused, StorageError
from reelkeeper.model import Grace
from reelkeeper.operations.core.workspace import note_trial, open_workspace, unclaimed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.wording import contract_gate
from reelkeeper.rules.lifecycle.transcode import links
from reelkeeper.settings import Settings
from reelkeeper.store.billing import usage
from reelkeeper.store.core import controls, deployment
from reelkeeper.store.core.engine import open_engine, open_store, reading, transaction
from reelkeeper.store.sync.scans import BUCKET_EVENTS
from tests.cli.conftest import Run
from tests.doubles.fal import FalDouble
from tests.doubles.r2 import R2Double
from tests.doubles.vendor import TOKEN
from tests.marks import marked
from tests.policies import put_in_force
from tests.reading import TIME, UUID, as_read

Ask = Callable[..., Any]
PUTS = "put once"  # a part for which an object is put, and a check of the contract


def by_part(findings: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {finding["part"]: finding for finding in findings}


def test_a_whole_deployment_is_well(ask: Ask, one_video: str) -> None:
    found = by_part(ask("doctor"))
    assert {entry["state"] for entry in found.values()} <= {"ok", "warn"}
    assert one_video
    wanted = {
        "programs",
        "media tools",
        "h264 encoder",
        "hevc encoder",
        "av1 encoder",
        "vp9 encoder",
        "quality filter",
        "media sandbox",
    }
    wanted |= {"scratch space", "store", "changes", "bucket", "identity", PUTS, "ETag", "clocks"}
    assert wanted <= set(found)
    assert found["links"]["found"] == contract_gate([])  # nobody has tested the bucket


@pytest.mark.long
def test_its_probe_stays_and_no_listing_shows_it(ask: Ask, bucket: Bucket, double: R2Double) -> None:
    ask("doctor", "--claim")
    ask("doctor")
    assert bucket.head(bucket.probe_key) is not None
    assert list(bucket.pages()) == [[]]
    assert double.deleted() == []


def writes(double: R2Double) -> set[str]:
    return {request.method for request in double.requests} - {"GET", "HEAD"}


def test_in_a_trial_it_writes_nothing_into_the_bucket(
    ask: Ask, bucket: Bucket, configured: Settings, double: R2Double
) -> None:
    engine = open_engine(f"sqlite:///{configured.store_file}")
    bucket.put_bytes_once(f"{bucket.prefix}u/v.mp4", b"theirs", "video/mp4")
    note_trial(engine, bucket, begins=True)
    double.requests.clear()
    found = by_part(ask("doctor"))
    assert [found[part]["state"] for part in (PUTS, "ETag", "bucket")] == ["warn", "warn", "ok"]
    assert writes(double) == set()
    note_trial(engine, bucket, begins=False)
    assert by_part(ask("doctor"))[PUTS]["state"] == "warn"  # nobody has claimed it
    assert writes(double) == set()
    assert by_part(ask("doctor", "--claim"))[PUTS]["state"] == "ok"
    engine.dispose()


def test_where_it_does_not_write_it_says_what_the_contract_test_found(
    ask: Ask, bucket: Bucket, configured: Settings, double: R2Double
) -> None:
    with open_store(configured) as engine:
        note_trial(engine, bucket, begins=True)
        for name, states in ((bucket.name, ["ok", "fail"]), ("another", ["warn", "warn"])):
            with transaction(engine, "test") as session:
                deployment.record_contract(session, bucket.endpoint_url, name, [PUTS], ["ETag"], run_id="test")
            double.requests.clear()
            found = by_part(ask("doctor", exit_code=states.count("fail")))
            assert [found[part]["state"] for part in (PUTS, "ETag")] == states
            assert writes(double) == set()


@pytest.mark.parametrize("below", ["", "videos/"], ids=["its own", "a mistyped one"])
def test_in_a_trial_nothing_is_claimed_whatever_the_prefix(
    ask: Ask, bucket: Bucket, configured: Settings, double: R2Double, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    with open_store(configured) as engine:
        note_trial(engine, bucket, begins=True)
    monkeypatch.setenv("REELKEEPER_PREFIX", f"{configured.prefix}{below}")
    double.requests.clear()
    for words in ((), ("--claim",)):
        found = by_part(ask("doctor", *words, exit_code=len(words)))["identity"]
        assert found["state"] == ("fail" if words else "ok")
        assert marked(found["remedy"]) == snapshot("reelkeeper up --live claims the bucket")
    assert writes(double) == set()


@pytest.mark.parametrize("words", [(), ("--claim",)], ids=["asked", "claimed"])
def test_a_whole_bucket_with_another_stores_folder_is_not_free(
    ask: Ask, configured: Settings, double: R2Double, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    theirs = f"!{configured.prefix.partition('/')[0]}/.reelkeeper-identity.json"  # among the first folders
    double.client.put_object(Bucket=configured.bucket, Key=theirs, Body=b'{"deployment": "another"}')
    monkeypatch.setenv("REELKEEPER_PREFIX", "/")
    double.requests.clear()
    try:
        assert by_part(ask("doctor", *words, exit_code=1))["identity"]["state"] == "fail"
        assert writes(double) == set()
    finally:  # nor is the whole bucket claimed for the tests after this one, where the guard is switched off
        for key in (theirs, ".reelkeeper-identity.json"):
            double.client.delete_object(Bucket=configured.bucket, Key=key)


def test_where_the_identity_cannot_be_read_the_other_parts_are_still_checked(
    ask: Ask, one_video: str, double: R2Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> bool:
        raise StorageError(f"the identity beside {one_video}: 503")

    monkeypatch.setattr("reelkeeper.operations.health.bucket_checks.check_identity", refused)
    double.requests.clear()
    found = by_part(ask("doctor", exit_code=1))
    assert [found[part]["state"] for part in ("identity", PUTS, "clocks")] == ["fail", "warn", "ok"]
    assert writes(double) == set()


@pytest.mark.usefixtures("no_store")
def test_without_a_store_it_writes_nothing_into_a_bucket(ask: Ask, double: R2Double) -> None:
    assert by_part(ask("doctor", exit_code=1))[PUTS]["state"] == "warn"
    assert by_part(ask("doctor", "--contract", exit_code=1))["contract"]["state"] == "fail"  # not tried, and says so
    assert writes(double) == set()


def test_a_server_that_overwrites_is_found_out(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Bucket.put_bytes_once
    monkeypatch.setattr(
        Bucket, "put_bytes_once", lambda self, key, *rest: put(self, key, *rest) if "identity" in key else None
    )
    found = by_part(ask("doctor", "--claim", exit_code=1))
    assert found[PUTS]["state"] == "fail"
    assert as_read(found[PUTS]["remedy"]) == snapshot(
        "do not use this server: a delayed write could replace a customer's video"
    )


@pytest.mark.long
def test_a_foreign_bucket_fails_and_is_never_taken_over(
    reelkeeper: Run, ask: Ask, one_video: str, configured: Settings, prefix: str
) -> None:
    configured.store_file.rename(configured.store_file.with_name("elsewhere.sqlite3"))
    reelkeeper("db", "upgrade")
    assert by_part(ask("doctor", exit_code=1))["identity"]["state"] == "fail"
    found = by_part(ask("doctor", "--claim", exit_code=1))["identity"]["found"]
    assert as_read(found, deployment=UUID, prefix=prefix) == snapshot("""\
bucket 'reelkeeper' under '<prefix>' belongs to deployment <deployment>, but this store to
  <deployment>. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and
  _STATE_DIR\
""")
    assert one_video


@pytest.mark.long
def test_a_bucket_that_lost_its_identity_is_claimed_only_when_asked(
    ask: Ask, one_video: str, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("REELKEEPER_PREFIX", f"{prefix}moved/")
    assert "--claim" in by_part(ask("doctor", exit_code=1))["identity"]["remedy"]
    assert by_part(ask("doctor", "--claim"))["identity"]["state"] == "ok"
    assert one_video


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("REELKEEPER_FFMPEG", "nowhere/ffmpeg", "media tools"),
        ("REELKEEPER_BUCKET", "no-such-bucket", "bucket"),
        ("REELKEEPER_DATABASE_URL", "mysql://nowhere", "store"),
        ("REELKEEPER_PREFIX", "/odd", "settings"),
    ],
)
def test_a_missing_part_is_named_and_the_others_are_still_checked(
    reelkeeper: Run, ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    found = ask("doctor", exit_code=1)
    assert [item["part"] for item in found if item["state"] == "fail"] == [part]
    assert len(found) > 8 or part == "settings"
    assert "1 of" in reelkeeper("doctor", exit_code=1).stdout


@pytest.mark.long
def test_frozen_is_a_warning(reelkeeper: Run, ask: Ask) -> None:
    reelkeeper("freeze", "--reason", "audit")
    assert by_part(ask("doctor"))["changes"]["state"] == "warn"


@pytest.mark.long
def test_configured_events_without_a_follower_are_a_warning(
    ask: Ask, one_video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "events" not in by_part(ask("doctor"))
    for name, value in {"CLOUDFLARE_ACCOUNT_ID": "a", "EVENT_QUEUE_ID": "q", "EVENT_QUEUE_TOKEN": "t"}.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    assert as_read(by_part(ask("doctor"))["events"]["found"]) == snapshot("no worker has followed R2's events yet")
    engine = open_engine(f"sqlite:///{tmp_path / 'state' / 'store.sqlite3'}")
    for minutes, state in ((14, "ok"), (16, "warn")):
        empty_at = datetime.now(UTC) - timedelta(minutes=minutes)
        followed = {"since": empty_at.isoformat(), "caught_up_at": empty_at.isoformat(), "backlog": 0, "counts": {}}
        with transaction(engine, "test") as session:
            controls.write(session, BUCKET_EVENTS, followed)
        assert by_part(ask("doctor"))["events"]["state"] == state
    engine.dispose()
    assert one_video


def test_links_are_kept_where_this_bucket_has_passed_the_contract_and_else_left_alone(
    ask: Ask, configured: Settings
) -> None:
    kept = links("in_place", Grace())
    for bucket, failed, said in (
        ("theirs", ["listing"], contract_gate([])),
        (configured.bucket, ["listing"], contract_gate(["listing"])),
        (configured.bucket, [], kept),
    ):
        with open_store(configured) as engine, transaction(engine, "test") as session:
            passed = {*CHECKS} - {*failed}
            deployment.record_contract(session, str(configured.endpoint_url), bucket, passed, failed, run_id="r")
        assert by_part(ask("doctor"))["links"]["found"] == said


@pytest.mark.long
def test_the_contract_is_off_until_it_was_tried_and_then_remembered(
    ask: Ask, double: R2Double, bucket: Bucket, prefix: str
) -> None:
    key = f"{prefix}ann/one.mp4"
    bucket.put_bytes_once(key, b"a video", "video/mp4")
    before = by_part(ask("doctor"))["contract"]
    assert before["state"] == "warn"
    assert before["remedy"].endswith("--contract")
    assert as_read(before["found"]) == snapshot(
        "the contract test has not run on this bucket, so features that depend on it are off"
    )
    found = by_part(ask("doctor", "--contract"))
    tried = {part.removeprefix("contract: ") for part in found if part.startswith("contract: ")}
    assert tried == set(CHECKS)
    assert found.keys().isdisjoint({PUTS, "ETag"})  # what the test has tried is not called untried
    assert {entry["state"] for part, entry in found.items() if part.startswith("contract")} == {"ok"}
    assert by_part(ask("doctor"))["contract"]["state"] == "ok"
    touched = {key for request in double.sent("DeleteObject", "DeleteObjects", "PutObject") for key in request.touched}
    ours = {key, bucket.probe_key, bucket.identity_key}
    assert [text for text in touched - ours if not text.startswith(f"{prefix}.contract-")] == []
    assert bucket.read_bytes(key) == b"a video"
    assert [stored.key for page in bucket.under(f"{prefix}.contract-{'0' * 16}/").pages() for stored in page] == []


def test_the_bill_has_what_the_contract_test_sends(ask: Ask, configured: Settings, double: R2Double) -> None:
    today = datetime.now(UTC).date()

    def counted() -> dict[str, int]:
        with open_store(configured) as engine, reading(engine) as session:
            return usage.operations(session, today - timedelta(days=1), today)

    before, sent = counted(), len(double.sent("PutObject"))
    ask("doctor", "--contract")
    more = len(double.sent("PutObject")) - sent
    assert counted()["PutObject"] - before.get("PutObject", 0) == more > 0
    assert counted()["ListObjects"] > before.get("ListObjects", 0)


def test_keys_that_may_only_read_prove_nothing_of_the_server(ask: Ask, double: R2Double) -> None:
    before = by_part(ask("doctor"))["contract"]
    double.faults.fail("PutObject", 403, times=1_000)
    found = by_part(ask("doctor", "--contract", exit_code=1))
    assert found["contract"]["state"] == "fail"
    assert not [part for part in found if part.startswith("contract: ")]
    double.faults.clear()
    assert by_part(ask("doctor"))["contract"] == before


def test_a_first_change_is_announced_where_the_bucket_has_no_owner(configured: Settings, prefix: str) -> None:
    assert unclaimed(configured) == f"{prefix}.reelkeeper-identity.json"
    with open_workspace(configured, claims=False) as opened:
        note_trial(opened.engine, opened.bucket, begins=True)
        assert unclaimed(configured) is None  # nothing claims it in a trial
        note_trial(opened.engine, opened.bucket, begins=False)
    with open_workspace(configured):
        assert unclaimed(configured) is None


@pytest.mark.long
def test_features_that_need_the_contract_are_on_at_the_embedded_server(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"REELKEEPER_{name}")
    contract_of_it = by_part(ask("doctor"))["contract"]
    assert (contract_of_it["state"], contract_of_it["remedy"]) == ("ok", "")


@pytest.mark.long
def test_a_check_of_the_contract_that_fails_is_named_and_keeps_it_off(ask: Ask) -> None:
    original = contract.CHECKS["clock"]

    def late(place: contract.Scratch) -> str:
        raise contract.Broken(f"an hour away, seen under {place.bucket.name}")

    contract.CHECKS["clock"] = late
    try:
        found = by_part(ask("doctor", "--contract", exit_code=1))
    finally:
        contract.CHECKS["clock"] = original
    assert (found["contract: clock"]["state"], found["contract: clock"]["found"][:12]) == ("fail", "an hour away")
    assert found["contract"]["state"] == "warn"
    assert as_read(found["contract"]["found"], at=TIME) == snapshot("in the contract test of <at>, clock did not pass")
    assert by_part(ask("doctor"))["contract"]["found"] == found["contract"]["found"]


def test_a_server_that_failed_a_dangerous_check_fails_each_time(ask: Ask, configured: Settings) -> None:
    """Every flow that would change the bucket is refused there, so nobody may read that nothing fails."""
    assert configured.endpoint_url
    at = configured.endpoint_url, configured.bucket
    for failed, state in (("clock", "warn"), (PUTS, "fail")):
        with open_store(configured) as engine, transaction(engine, "test") as session:
            deployment.record_contract(session, *at, {*CHECKS} - {failed}, [failed], run_id="test")
        found = by_part(ask("doctor", exit_code=state == "fail"))
        assert found["contract"]["state"] == state
        assert found["links"]["found"] == contract_gate([failed])  # and not what becomes of links that stay


def test_lock_rules_that_nobody_can_read_are_not_ok(ask: Ask) -> None:
    assert by_part(ask("doctor"))["lock rules"]["state"] == "warn"


def test_a_trial_of_a_vendor_asks_before_it_sends_one_clip(
    configured: Settings, reelkeeper: Run, ask: Ask, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a list", "read_on": "2026-11-29"}
    book = {"models": [{"model": "fal-ai/veo3.1/fast", "provider": "fal", "price": price, "limits": {"seconds": [5]}}]}
    with open_store(configured) as engine:
        put_in_force(engine, book=PriceBook.model_validate(book))
    with FalDouble(tiny_clip.read_bytes()).serving() as fal:
        for name, value in {"FAL_URL": fal.url, "FAL_TOKEN": TOKEN, "GENERATOR_HOSTS": "127.0.0.1"}.items():
            monkeypatch.setenv(f"REELKEEPER_{name}", value)
        monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
        trial = ("doctor", "--vendor", "fal", "--spend")
        reelkeeper(*trial[:3], exit_code=2)
        reelkeeper("doctor", "--spend", "1", exit_code=2)
        reelkeeper(*trial, "a dollar", exit_code=2)
        asked = reelkeeper(*trial, "0.5", exit_code=1)
        assert as_read(asked.output) == snapshot("""\
fal makes one clip of fal-ai/veo3.1/fast on your account, for $0.50 at its listed price. Go on?
  [y/N]:Aborted.\
""")
        reelkeeper(*trial, "0.49", "--yes", exit_code=Refused.exit_code)
        assert fal.connections == 0
        found = by_part(ask(*trial, "0.5", "--yes"))
        assert (found["fal: cost"]["state"], found["fal: fetch"]["state"], len(fal.submitted)) == ("ok", "ok", 1)
