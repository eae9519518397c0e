"""None of ten secrets is ever printed, logged, raised, stored, or given to a child process.

A deployment is taken through its commands while all is well and while everything fails, with every library's logs at
DEBUG. Then all that is left is searched. What Prefect keeps is searched in tests/flows/test_canaries.py.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from reelkeeper.cli import app
from reelkeeper.operations.alerts.outbox import configured_sinks, deliver
from reelkeeper.settings import Settings, settings
from reelkeeper.store.core.engine import open_store
from tests.buckets import BUCKET
from tests.canaries import CANARIES, QUOTED_PASSWORD, Evidence, environment
from tests.doubles.cloudflare import ACCOUNT, CloudflareDouble
from tests.doubles.r2 import R2Double
from tests.doubles.slack import SlackDouble
from tests.posts import post

pytestmark = pytest.mark.long("a deployment goes through its commands twice for its evidence")
_listeners: list[Evidence] = []


def _note_children(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen":
        for evidence in _listeners:
            evidence.keep("arguments of a child", repr(arguments[:3]))  # the fourth is its environment


@pytest.fixture(scope="module")
def evidence(
    double_of_session: R2Double,
    cloudflare_of_session: CloudflareDouble,
    postgresql: sa.URL,
    empty_database: str,
    tiny_clip: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Evidence]:
    """What is left of a deployment on PostgreSQL, a bucket with R2's rules, and Cloudflare."""
    found = Evidence(double_of_session.endpoint)
    folder = tmp_path_factory.mktemp("canaries")
    store = postgresql.set(database=empty_database, username="postgres", password=CANARIES["store password"])
    double_of_session.reset()
    cloudflare_of_session.reset()
    cloudflare_of_session.token = CANARIES["Cloudflare token"]
    with (
        SlackDouble().serving() as slack,
        pytest.MonkeyPatch.context() as patch,
        _listening(found),
        _logging_to(folder / "debug.log"),
    ):
        patch.chdir(folder)
        for name, value in environment(
            slack.origin,
            SLACK_API_URL=slack.api_url,
            STATE_DIR=str(folder / "state"),
            DATABASE_URL=store.render_as_string(hide_password=False),
            S3_ENDPOINT_URL=found.at.endpoint_url,
            S3_ACCESS_KEY_ID=found.at.access_key_id,
            S3_SECRET_ACCESS_KEY=found.at.secret_access_key,
            BUCKET=BUCKET,
            PREFIX=f"{empty_database}/videos/",  # the bucket may hold what another round of this fixture claimed
            CLOUDFLARE_ACCOUNT_ID=ACCOUNT,
            CLOUDFLARE_API_URL=cloudflare_of_session.url,
        ):
            patch.setenv(name, value)
        _while_all_is_well(found, tiny_clip, folder)
        _while_everything_fails(found, patch, cloudflare_of_session, tiny_clip)
        _while_nobody_takes_messages(found, patch, slack)
        run(found, "db", "backup", folder / "state" / "backup-after.zip")
    settings.cache_clear()
    found.keep_folder(folder)
    yield found
    cloudflare_of_session.reset()


def _while_all_is_well(found: Evidence, clip: Path, folder: Path) -> None:
    run(found, "db", "upgrade")
    run(found, "doctor", "--claim")
    run(found, "doctor", "--json")
    run(found, "videos", "add", clip, "--user", "ann", "--video", "v1")
    run(found, "videos", "import-reads", "--day", "2026-11-20")
    run(found, "videos", "show", "v1", "--json")
    run(found, "db", "status")
    run(found, "audit", "verify")
    run(found, "alerts", "messages", "--all")
    run(found, "bill", "--reconcile", "cloudflare")
    run(found, "report", "-o", folder / "state" / "report.html")
    run(found, "db", "backup", folder / "state" / "backup.zip")
    found.keep("settings, as shown", repr(Settings()))
    found.keep("settings, as a dump", Settings().model_dump_json())


def _while_everything_fails(
    found: Evidence, patch: pytest.MonkeyPatch, cloudflare: CloudflareDouble, clip: Path
) -> None:
    add = ("--debug", "videos", "add", clip, "--user", "ann", "--video", "v2")
    reads = ("--debug", "videos", "import-reads", "--day", "2026-11-20")
    cloudflare.token = "another"  # noqa: S105  what the server now takes
    run(found, *reads, exit_code=2)
    run(found, "doctor", exit_code=1)
    _each(found, patch, "CLOUDFLARE_API_URL", [f"ftp://{ACCOUNT}"], reads)
    keys = f"{found.at.secret_access_key}x"  # a wrong one: what is signed with it is refused
    _each(found, patch, "S3_SECRET_ACCESS_KEY", [keys], add)
    _each(found, patch, "S3_ENDPOINT_URL", [f"http://ann:{CANARIES['password in an address']}@127.0.0.1:1"], add)
    _each(found, patch, "CLOUDFLARE_API_TOKEN", [f"{CANARIES['Cloudflare token']}\n", "\x07tok\u00e9n"], reads)
    _each(found, patch, "WORKERS", [CANARIES["secret in another setting"]], add)
    password = QUOTED_PASSWORD
    for wrong in (
        f"postgresql://ann:{password}@127.0.0.1:1/store",
        f"postgresql://ann:{password}@[127.0.0.1/store",
        f"postgresql://ann:{CANARIES['store password']}@127.0.0.1:1/store",
        f"mysql://ann:{password}@127.0.0.1/store",
        f"sqlite://ann:{password}@/",
        CANARIES["store password"],
    ):
        _each(found, patch, "DATABASE_URL", [wrong], ("--debug", "db", "status"))
        _each(found, patch, "DATABASE_URL", [wrong], ("doctor",))


def _while_nobody_takes_messages(found: Evidence, patch: pytest.MonkeyPatch, slack: SlackDouble) -> None:
    hook = slack.origin + CANARIES["Slack webhook"]
    patch.setenv("REELKEEPER_SLACK_WEBHOOK_URL", hook)
    run(found, "db", "status", exit_code=2)  # both a bot and a webhook
    patch.delenv("REELKEEPER_SLACK_WEBHOOK_URL")
    run(found, "watchdog")
    nobody = f"http://127.0.0.1:1{CANARIES['ping address']}"
    _each(found, patch, "WATCHDOG_PING_URL", [nobody], ("watchdog",))
    run(found, "alerts", "test", exit_code=6)
    _deliver(found)  # the bot's token is refused, and so is the second sink's address
    slack.second_status = 500
    patch.setenv("REELKEEPER_SECOND_SINK_URL", f"{slack.second_url}{CANARIES['second sink']}")
    _deliver(found)
    patch.delenv("REELKEEPER_SLACK_CHANNEL")
    patch.delenv("REELKEEPER_SLACK_BOT_TOKEN")
    for address in (hook, f"http://127.0.0.1:1{CANARIES['Slack webhook']}"):
        patch.setenv("REELKEEPER_SLACK_WEBHOOK_URL", address)
        _deliver(found)
    found.keep("settings, as shown", repr(Settings()))


def _deliver(found: Evidence) -> None:
    """Put a message into the outbox, and send all that is due."""
    settings.cache_clear()
    with open_store(settings()) as engine:
        post(engine, "A title", "And a text.")
        found.keep("what became of messages", repr(deliver(engine, configured_sinks(settings()), seconds=5)))


def _each(found: Evidence, patch: pytest.MonkeyPatch, name: str, values: list[str], words: tuple[object, ...]) -> None:
    with patch.context() as briefly:
        for value in values:
            briefly.setenv(f"REELKEEPER_{name}", value)
            run(found, *words, exit_code=None)


def run(found: Evidence, *words: object, exit_code: int | None = 0) -> None:
    """Run the command, and keep what it prints. None: any exit code but 0."""
    settings.cache_clear()
    result = CliRunner().invoke(app, [str(word) for word in words])
    found.keep(f"output of {words}", result.output)
    found.keep("exceptions", repr(result.exception))
    assert result.exit_code == exit_code or (exit_code is None and result.exit_code), result.output


@contextlib.contextmanager
def _listening(found: Evidence) -> Iterator[None]:
    """Keep the arguments of every child: of those started here, and of those that a child starts."""
    over = threading.Event()

    def watch() -> None:
        here = psutil.Process()
        while not over.wait(0.005):
            for child in here.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found.keep("arguments of a child", "\0".join(child.cmdline()))

    sys.addaudithook(_note_children)
    _listeners.append(found)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _listeners.remove(found)


@contextlib.contextmanager
def _logging_to(place: Path) -> Iterator[None]:
    """Set all libraries' logs to the most verbose level, with tracebacks."""
    root, handler = logging.getLogger(), logging.FileHandler(place)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("name", [*CANARIES, "access key", "secret key"])
def test_a_secret_is_nowhere(evidence: Evidence, name: str) -> None:
    assert evidence.showing(name) == []


def test_no_signature_made_with_a_secret_is_stored_or_logged(evidence: Evidence) -> None:
    assert evidence.signatures() == []


def test_the_search_looks_where_secrets_would_be(evidence: Evidence) -> None:
    log = next(what for where, what in evidence.left.items() if where.endswith("debug.log"))
    for library in (b"botocore.auth", b"botocore.endpoint", b"httpx", b"httpcore", b"alerts.outbox"):
        assert library in log
    assert b"Signature=***" in log
    assert b"ffmpeg" in evidence.left["arguments of a child"]
    assert any("!audit_events.csv" in where for where in evidence.left)
    assert any("backup-after.zip!outbox.csv" in where for where in evidence.left)
    told = evidence.left["what became of messages"]
    assert b"the second sink answered 404" in told
    assert b"Slack gave no answer" in told
    assert b"REELKEEPER_WATCHDOG_PING_URL gave no answer" in evidence.left["output of ('watchdog',)"]
    assert len(evidence.secrets) == 10
