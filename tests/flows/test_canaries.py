"""Prefect's logs, states, parameters and artifacts contain no secret, of good runs and of failed ones."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)

from flows.deliver_alerts import deliver_alerts
from flows.monitor_costs import monitor_costs
from flows.sync_catalog import sync_catalog
from flows.tier_storage import tier_storage
from reelkeeper.errors import PartialFailure, ReelkeeperError
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import view_days
from tests.canaries import CANARIES, QUOTED_PASSWORD, Evidence, environment
from tests.doubles.cloudflare import ACCOUNT, CloudflareDouble
from tests.flows.scenes import Scene
from tests.posts import post

LIBRARIES = ("botocore", "urllib3", "sqlalchemy.engine")  # not httpx, by which Prefect sends what it logs


@pytest.fixture
def log() -> Iterator[APILogHandler]:
    """Send the libraries' DEBUG logs to Prefect's server, as PREFECT_LOGGING_EXTRA_LOGGERS does."""
    handler = APILogHandler()
    before = {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield handler
        handler.flush()
    for name, level in before.items():
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).setLevel(level)


@pytest.mark.long
def test_prefect_keeps_none_of_ten_secrets(
    scene: Scene, cloudflare: CloudflareDouble, log: APILogHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Evidence(scene.double.endpoint)
    scene.video("v1", age_days=40)
    nobody = "http://127.0.0.1:1"
    for name, value in environment(
        nobody, SLACK_API_URL=f"{nobody}/api/", CLOUDFLARE_ACCOUNT_ID=ACCOUNT, CLOUDFLARE_API_URL=cloudflare.url
    ):
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    with transaction(scene.engine, "test") as session:
        session.execute(sa.delete(view_days))

    sync_catalog(dry_run=False, reads_are_views=True)  # the token is refused: the reads stay unknown
    tier_storage()
    monitor_costs(dry_run=False)
    post(scene.engine, "A title", "And a text.")
    with pytest.raises(PartialFailure):
        deliver_alerts(seconds=3, dry_run=False)
    for name, value in {
        "S3_SECRET_ACCESS_KEY": f"{scene.double.endpoint.secret_access_key}x",
        "S3_ENDPOINT_URL": f"http://ann:{CANARIES['password in an address']}@127.0.0.1:1",
        "WORKERS": CANARIES["secret in another setting"],
        "DATABASE_URL": f"postgresql://ann:{QUOTED_PASSWORD}@127.0.0.1:1/store",
        "SLACK_WEBHOOK_URL": f"https://hooks.example{CANARIES['Slack webhook']}",
    }.items():
        with monkeypatch.context() as briefly:
            briefly.setenv(f"REELKEEPER_{name}", value)
            settings.cache_clear()
            with pytest.raises(Exception, match=r"\S") as failed:
                sync_catalog()
            found.keep("exceptions", str(failed.value))
            if not isinstance(failed.value, ReelkeeperError):
                found.keep("other exceptions", repr(failed.value))

    log.flush()
    database = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().partition("///")[2])
    for path in database.parent.glob(f"{database.name}*"):
        found.keep("Prefect's database", path.read_bytes())
    kept = found.left["Prefect's database"]
    for seen in (
        b"Signature=***",
        b"sync-catalog-report",
        b"does not accept",
        b"validation error",
        b"Slack gave no answer",
    ):
        assert seen in kept
    assert {name: found.showing(name) for name in found.secrets} == {name: [] for name in found.secrets}
    assert found.signatures() == []
