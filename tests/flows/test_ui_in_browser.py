"""Prefect's UI in a real Chromium, on `reelkeeper up`: starting a run from its form, reading its plan and report.

See build/screenshots, or the folder that SCREENSHOTS names.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from playwright.sync_api import Browser, Locator, Page
from playwright.sync_api import TimeoutError as NotYet

from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store, transaction
from reelkeeper.store.tables import users, view_days
from tests.browser import SCREENSHOTS
from tests.policies import put_in_force
from tests.ports import free_port
from tests.shrinking import AT_ANY_PRICE

pytestmark = pytest.mark.long("a browser, and a whole installation behind it")
COMMAND = str(Path(sys.executable).parent / "reelkeeper")
PATIENCE_SECONDS = 240.0


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REELKEEPER_"))}
    return clean | {"REELKEEPER_STATE_DIR": str(folder / "state"), "REELKEEPER_LOG_FORMAT": "json"}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """A folder with three cold videos of ann's, of whose views every day is known."""
    folder = tmp_path_factory.mktemp("up")

    def run(*words: object) -> None:
        told = [COMMAND, *map(str, words)]
        subprocess.run(told, env=environment(folder), cwd=folder, check=True, capture_output=True, timeout=180)

    run("db", "upgrade")
    long_ago = (datetime.now(UTC) - timedelta(days=20)).date()
    for number in range(3):
        run("videos", "add", tiny_clip, "--user", "ann", "--video", f"v{number}", "--created-at", long_ago)
    with open_store(Settings(state_dir=folder / "state")) as engine:
        put_in_force(engine, recipe=AT_ANY_PRICE)  # so small, none would pay for its requests
    with open_store(Settings(state_dir=folder / "state")) as engine, transaction(engine, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
        days = [{"day": (datetime.now(UTC) - timedelta(days=n)).date()} for n in range(1, 40)]
        session.execute(sa.insert(view_days), days)
    return folder


@pytest.fixture(scope="module")
def ui(state: Path) -> Iterator[str]:
    """Where Prefect's UI of `reelkeeper up` is, once it is up. It is stopped as a person stops it."""
    up = subprocess.Popen(
        [COMMAND, "up", "--json", "--patience", "5", "--port", str(free_port()), "--api-port", str(free_port())],
        env=environment(state),
        cwd=state,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert up.stdout
    try:
        said = (json.loads(line) for line in up.stdout)
        ready = next((item for item in said if item["event"] == "ready"), None)
        assert ready, "it has ended"
        threading.Thread(target=lambda: [None for _ in up.stdout or ()], daemon=True).start()  # it must not fill up
        yield ready["ui_url"]
    finally:
        up.send_signal(signal.SIGINT)
        try:
            up.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()


@pytest.fixture(scope="module")
def tab(ui: str, chromium: Browser) -> Iterator[Page]:
    assert ui
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(240_000)
    yield page
    page.close()


def asked(url: str, query: object = None) -> Any:  # noqa: ANN401  what Prefect answers
    """Ask Prefect, again where SQLite is busy (503), as its own client does."""
    body = None if query is None else json.dumps(query).encode()
    wanted = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  on loopback
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(wanted, timeout=30) as answer:  # noqa: S310  the same
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > ends:
                raise
            time.sleep(0.5)


def keep(tab: Page, name: str, *, full_page: bool = False) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"ui-{name}.png", full_page=full_page)


def until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.5)


def visible(tab: Page, text: str | re.Pattern[str]) -> Locator:
    found = tab.get_by_text(text).first
    found.wait_for()
    return found


def opened(tab: Page, shows: Locator) -> Locator:
    """Wait for what a page shows first, as a person does: where "Something went wrong" stays, load it again.

    One answer of 503 while SQLite is busy is enough for that, and the UI never asks again by itself.
    """

    def shown() -> bool:
        try:
            shows.wait_for(timeout=20_000)
        except NotYet:
            tab.reload()
            return False
        return True

    until(shown)
    return shows


@pytest.fixture(scope="module")
def run_id(ui: str, tab: Page) -> str:
    """A run of tier_storage that was started from its form and has completed."""
    deployment = asked(f"{ui}/api/deployments/name/tier-storage/daily")["id"]
    tab.goto(f"{ui}/v2/deployments/deployment/{deployment}")
    opened(tab, tab.get_by_role("button", name="Run", exact=True)).click()
    tab.get_by_role("menuitem", name=re.compile("Custom run")).click()
    deployed = re.compile("Ages at which a video is compressed or retired as cold.* As deployed: .*grace_days 7")
    opened(tab, tab.get_by_text(deployed).first)
    keep(tab, "form-closed", full_page=True)
    visible(tab, re.compile("^LifecyclePolicy$")).click()  # exceptions to the policies in force: none, unless opened
    visible(tab, "Compress Below Views")
    for said in (
        "Compress videos with fewer views than this in 30 days",  # of a policy's field
        "Show what would be done, without doing it; switch it off to apply the changes",  # of a parameter
    ):
        visible(tab, re.compile(said))
    keep(tab, "form", full_page=True)
    tab.get_by_role("textbox", name="Run Name").fill("from the form")

    def submitted() -> bool:
        tab.get_by_role("button", name="Submit").click()
        try:
            tab.wait_for_url(re.compile(r"^(?!.*/run\?)"), timeout=5_000)
        except NotYet:  # SQLite is busy, and the server says so (503): a person asks again
            return False
        return True

    until(submitted)
    query = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}

    def found() -> list[dict[str, Any]]:
        return [item for item in asked(f"{ui}/api/flow_runs/filter", query) if not item["auto_scheduled"]]

    until(lambda: bool(found()) and found()[0]["state_type"] not in {"SCHEDULED", "PENDING", "RUNNING"})
    assert found()[0]["state_type"] == "COMPLETED", found()[0]["state"]
    started: str = found()[0]["id"]
    return started


def test_a_run_that_was_started_from_its_form_shows_its_steps_and_its_artifacts(
    ui: str, tab: Page, run_id: str
) -> None:
    tab.goto(f"{ui}/v2/runs/flow-run/{run_id}")
    opened(tab, tab.get_by_text("Completed").first)
    visible(tab, re.compile("^tier-storage 20"))
    tab.get_by_role("tab", name="Artifacts").click()
    for key in ("tier-storage-plan", "tier-storage-plan-summary", "tier-storage-report"):
        visible(tab, re.compile(f"^{key}$"))
    keep(tab, "run")


def _open(ui: str, tab: Page, run_id: str, key: str) -> None:
    """Click on an artifact of the run, as a person would."""
    tab.goto(f"{ui}/v2/runs/flow-run/{run_id}?tab=Artifacts")
    opened(tab, tab.get_by_text(re.compile(f"^{key}$")).first).click()
    tab.wait_for_url(re.compile("/artifacts/artifact/"))
    opened(tab, tab.get_by_role("cell").first)


def is_whole(cell: Locator) -> bool:
    """Whether nothing around a cell cuts it off."""
    cell.wait_for()
    script = """one => {
        const right = one.getBoundingClientRect().right - 1;
        for (let around = one.parentElement; around; around = around.parentElement) {
            const clips = getComputedStyle(around).overflowX !== "visible";
            if (clips && around.getBoundingClientRect().right < right) return false;
        }
        return right <= window.innerWidth;
    }"""
    found: bool = cell.evaluate(script)
    return found


def test_the_plan_can_be_read(ui: str, tab: Page, run_id: str) -> None:
    _open(ui, tab, run_id, "tier-storage-plan")
    visible(tab, re.compile("0 views in 30 days, 20 days"))
    headings = [locator.inner_text() for locator in tab.get_by_role("columnheader").all()]
    assert headings == snapshot(["item", "reason", "USD per month", "USD net", "action", "MB", "rule"])
    assert {f"v{n}" for n in range(3)} <= {locator.inner_text() for locator in tab.get_by_role("cell").all()}
    assert is_whole(tab.get_by_role("cell", name=re.compile("0 views in 30")).first)
    keep(tab, "plan")
    _open(ui, tab, run_id, "tier-storage-plan-summary")
    visible(tab, re.compile("of tier_storage, as of 20"))
    tab.get_by_role("cell", name="cold_compress").first.wait_for()
    assert is_whole(tab.get_by_role("cell", name=re.compile("0 views in 30")).first)
    assert is_whole(tab.get_by_role("cell", name=re.compile(r"^(under )?\$0\.0")).last)
    keep(tab, "plan-summary")


def test_the_report_can_be_read_and_leads_back_to_its_run(ui: str, tab: Page, run_id: str) -> None:
    _open(ui, tab, run_id, "tier-storage-report")
    visible(tab, "What tier_storage did")
    tab.get_by_role("cell", name=re.compile("^(compressed|refused)$")).first.wait_for()
    visible(tab, re.compile("reelkeeper restore --run"))
    keep(tab, "report")
    tab.get_by_role("link", name="all artifacts of the run").click()
    tab.wait_for_url(re.compile(run_id))
    opened(tab, tab.get_by_text(re.compile("^tier-storage-report$")).first)


def test_every_line_of_the_runs_process_names_the_run(state: Path, run_id: str) -> None:
    written = (state / "state" / "logs" / "worker.log").read_text().splitlines()
    assert [line for line in written if not line.startswith("{")] == []
    lines = [json.loads(line) for line in written]
    ours = [line for line in lines if line["logger"].startswith("prefect.task_runs") and line["flow_run_id"] == run_id]
    assert ours
    of_runs = [line for line in lines if "flow_runs" in line["logger"] or "task_runs" in line["logger"]]
    assert all(of_run.get("flow_run_id") for of_run in of_runs)
