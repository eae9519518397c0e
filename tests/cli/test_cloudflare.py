"""Commands that use Cloudflare: import of reads as views, and the check of the token."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.settings import Settings
from tests.cli.conftest import Run
from tests.doubles.analytics import Operation
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, CloudflareDouble
from tests.doubles.r2 import R2Double
from tests.marks import marked
from tests.reading import as_read

Ask = Callable[..., Any]
DAY = datetime.now(UTC).date() - timedelta(days=2)


@pytest.fixture
def account(cloudflare: CloudflareDouble, configured: Settings, monkeypatch: pytest.MonkeyPatch) -> CloudflareDouble:
    """Cloudflare, as the deployment is configured to ask it."""
    assert configured.cloudflare_api_token is None
    given = {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": TOKEN, "API_URL": cloudflare.url}
    for name, value in given.items():
        monkeypatch.setenv(f"REELKEEPER_CLOUDFLARE_{name}", value)
    return cloudflare


@pytest.mark.long
def test_reads_come_in_as_views(account: CloudflareDouble, reelkeeper: Run, ask: Ask, one_video: str) -> None:
    (listed,) = ask("videos")
    at = datetime.combine(DAY, time(), UTC)
    account.operations = [Operation(at.replace(hour=hour), "ListObjects") for hour in range(24)]
    account.operations.append(Operation(at.replace(hour=3), "GetObject", listed["key"], 11))
    (day,) = ask("videos", "import-reads", "--day", DAY)
    assert (day["day"], day["videos"], day["reads"], day["doubt"]) == (DAY.isoformat(), 1, 11, "")
    assert as_read(reelkeeper("videos", "import-reads", "--day", DAY).stdout, day=DAY) == snapshot("""\
day videos reads unknown objects complete
<day> 1 11 0 could be, with --complete-days\
""")
    assert ask("videos")[0]["views"] == 11
    assert DAY.isoformat() in {item["day"] for item in ask("videos", "import-reads", "--complete-days")}
    assert DAY.isoformat() not in {item["day"] for item in ask("videos", "import-reads")}
    assert one_video


def test_without_a_token_it_ends_with_2_and_says_what_to_set(reelkeeper: Run) -> None:
    assert "REELKEEPER_CLOUDFLARE_API_TOKEN" in reelkeeper("videos", "import-reads", exit_code=2).stderr


def test_a_token_without_a_permission_ends_with_2_and_its_name(account: CloudflareDouble, reelkeeper: Run) -> None:
    account.permissions = ALL - {"Account Analytics: Read"}
    said = reelkeeper("videos", "import-reads", exit_code=2).stderr
    assert as_read(said) == snapshot("""\
error: REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Account Analytics: Read' on account
  0123456789abcdef0123456789abcdef (not authorized for that account); add it under My Profile, API
  Tokens\
""")


@pytest.mark.long
@pytest.mark.parametrize(
    ("lacks", "state"), [(set(), "ok"), ({"Billing: Read"}, "warn"), ({"Account Analytics: Read"}, "fail")]
)
def test_doctor_tries_the_token(account: CloudflareDouble, ask: Ask, lacks: set[str], state: str) -> None:
    account.permissions = ALL - lacks
    (found,) = (item for item in ask("doctor", exit_code=int(state == "fail")) if item["part"] == "cloudflare")
    assert found["state"] == state
    assert all(name in found["remedy"] for name in lacks)


# --- what the bucket does by itself


@pytest.fixture
def findings(account: CloudflareDouble, ask: Ask) -> Callable[[], dict[str, dict[str, str]]]:
    """What `doctor` says, by part."""
    account.bucket_rules = {"/r2/buckets/reelkeeper/lock": [], "/r2/buckets/reelkeeper/lifecycle": []}
    return lambda: {item["part"]: item for item in ask("doctor")}


def lock(prefix: str, condition: dict[str, object], *, enabled: bool = True) -> dict[str, object]:
    return {"id": f"lock of {prefix}", "enabled": enabled, "prefix": prefix, "condition": condition}


AGE = {"type": "Age", "maxAgeSeconds": 30 * 86_400}


@pytest.mark.long
def test_a_lock_that_covers_the_prefix_says_where_it_helps_and_where_it_is_in_the_way(
    account: CloudflareDouble, findings: Callable[[], dict[str, dict[str, str]]], prefix: str
) -> None:
    assert as_read(findings()["lock rules"]["found"], prefix=prefix) == snapshot(
        "no rule covers '<prefix>': everything with write access can also delete and overwrite"
    )
    rules = account.bucket_rules["/r2/buckets/reelkeeper/lock"]
    rules += [lock("elsewhere/", AGE), lock(prefix, {"type": "Indefinite"}, enabled=False), lock("", AGE)]
    found = findings()["lock rules"]
    assert found["state"] == "ok"
    assert as_read(found["found"], prefix=prefix) == snapshot("""\
rule 'lock of ' locks 'every prefix' for 30 days from their upload: until then, nobody can
  delete or overwrite an object there, by mistake or on purpose; purges and overwrites by your
  service are refused until then\
""")
    assert "elsewhere" not in found["found"]
    rules.append(lock(f"{prefix}ann/", {"type": "Indefinite"}))
    found = findings()["lock rules"]
    assert found["state"] == "warn"
    assert as_read(found["found"], prefix=prefix) == snapshot("""\
rule 'lock of ' locks 'every prefix' for 30 days from their upload; rule 'lock of <prefix>ann/'
  locks '<prefix>ann/' for ever: until then, nobody can delete or overwrite an object there, by
  mistake or on purpose; purges and overwrites by your service are refused until then\
""")
    assert as_read(found["remedy"], prefix=prefix) == snapshot(
        "objects there can never be purged: lock by age, for no longer than retention and grace"
    )
    assert account.asked[-1][0] == "GET"


@pytest.mark.long
def test_a_lifecycle_rule_that_deletes_is_a_warning(
    account: CloudflareDouble, double: R2Double, findings: Callable[[], dict[str, dict[str, str]]], prefix: str
) -> None:
    found = findings()["lifecycle rules"]
    assert as_read(found["found"], prefix=prefix) == snapshot("no rule deletes or moves objects under '<prefix>'")
    expire = {"Status": "Enabled", "Expiration": {"Days": 90}}
    rules = [
        {"ID": "ours", "Filter": {"Prefix": prefix}, **expire},
        {"ID": "theirs", "Filter": {"Prefix": "x/"}, **expire},
    ]
    client: Any = double.client  # the stubs want literals
    client.put_bucket_lifecycle_configuration(Bucket="reelkeeper", LifecycleConfiguration={"Rules": rules})
    try:
        found = findings()["lifecycle rules"]
    finally:
        client.delete_bucket_lifecycle(Bucket="reelkeeper")
    assert found["state"] == "warn"
    assert as_read(found["found"], prefix=prefix) == snapshot("rule 'ours' deletes objects under '<prefix>'")
    assert account.bucket_rules


@pytest.mark.long
def test_lifecycle_rules_that_the_keys_may_not_read_are_read_by_cloudflares_api_or_unknown(
    account: CloudflareDouble, double: R2Double, findings: Callable[[], dict[str, dict[str, str]]], prefix: str
) -> None:
    double.faults.fail("GetBucketLifecycleConfiguration", 403, times=100)
    account.bucket_rules["/r2/buckets/reelkeeper/lifecycle"] = [
        {"id": "r1", "enabled": True, "conditions": {"prefix": prefix}, "deleteObjectsTransition": {"condition": AGE}},
        {
            "id": "r2",
            "enabled": True,
            "conditions": {},
            "storageClassTransitions": [{"storageClass": "InfrequentAccess"}],
        },
        {"id": "r3", "enabled": True, "conditions": {}, "abortMultipartUploadsTransition": {"condition": AGE}},
    ]
    found = findings()["lifecycle rules"]
    assert found["state"] == "warn"
    assert as_read(found["found"], prefix=prefix) == snapshot("""\
rule 'r1' deletes objects under '<prefix>'; rule 'r2' moves objects to another storage class
  under 'every prefix'\
""")
    assert "r3" not in found["found"]
    account.permissions = ALL - {"Workers R2 Storage: Read"}
    for part in ("lifecycle rules", "lock rules"):
        found = findings()[part]
        assert found["state"] == "warn"
        assert found["found"].startswith("unknown: ")
        assert marked(found["remedy"]) == snapshot(
            "allow REELKEEPER_CLOUDFLARE_API_TOKEN Workers R2 Storage: Read, or look in the dashboard"
        )


def test_without_a_token_locks_are_not_known(ask: Ask, configured: Settings) -> None:
    assert configured.cloudflare_api_token is None
    found = {item["part"]: item for item in ask("doctor")}["lock rules"]
    assert (found["state"], found["found"][:7]) == ("warn", "unknown")
