"""The vendors' own clients work with the doubles; they are in .venv-vendors, which `make test-long` makes.

It also shows why the product sends its requests itself.
"""

import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.adapters.providers.contract import Submission
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.doubles.replicate import SIGNING_SECRET, ReplicateDouble
from tests.doubles.vendor import FAULT, LOST, TOKEN, Job, Vendor
from tests.doubles.weather import draw

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-vendors" / "bin" / "python"
SCRIPT = Path(__file__).with_name("vendor_clients.py")
SEEN = {
    "fal": ["Queued", "InProgress", "Completed"],
    "replicate": ["processing", "succeeded"],
    "runway": ["RUNNING", "SUCCEEDED"],
    "openrouter": ["pending", "in_progress", "completed"],
    "openai": ["in_progress", "completed"],
}
PAID = {"fal": 2, "replicate": 1, "runway": 2, "openrouter": 2, "openai": 2}  # for one job, where one answer is lost
Run = Callable[[str], dict[str, Any]]
pytestmark = pytest.mark.long("a process with the vendor's own client for each")


@pytest.fixture(params=SEEN)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vendor(name: str) -> Iterator[Vendor]:
    with FORMATS[name].double().serving() as serving:
        yield serving


@pytest.fixture
def client(name: str, vendor: Vendor) -> Run:
    assert PYTHON.exists(), "make .venv-vendors/.installed"

    return lambda action: ask(name, action, vendor.url, TOKEN)


def ask(*arguments: str) -> dict[str, Any]:
    """Run a client in its own environment; a proxy of ours would not find the doubles."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    command: list[str | Path] = [PYTHON, SCRIPT, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment, check=True)
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_a_client_makes_a_video(name: str, vendor: Vendor, client: Run) -> None:
    vendor.looks = 3
    said = client("make")
    assert (said["id"], said["seen"]) == ("p1", SEEN[name])
    assert said["video"].partition("?")[0] in (f"{vendor.files_url}p1.mp4", "a video")
    assert said.get("listed", ["p1"]) == ["p1"]


@pytest.mark.parametrize("name", sorted(SEEN.keys() - {"openrouter"}), indirect=True)  # which has no such call
def test_a_client_cancels(vendor: Vendor, client: Run) -> None:
    vendor.looks = 50
    assert client("cancel")["id"] == "p1"
    assert vendor.cancelled == ["p1"]


def test_a_client_understands_why_nothing_was_made(vendor: Vendor, client: Run) -> None:
    vendor.end_as("moderated")
    assert any(word in client("make")["words"] for word in ("flagged", "moderation"))
    vendor.queue = [vendor.refusal(422, "a size of 3 by 3")]
    assert "3 by 3" in client("make")["words"]


def test_a_client_at_its_defaults_pays_twice_where_an_answer_is_lost(name: str, vendor: Vendor, client: Run) -> None:
    vendor.queue = [FAULT if name == "openrouter" else LOST]  # whose client repeats what a 5xx answered
    client("make")
    assert len(vendor.submitted) == PAID[name]


@pytest.mark.parametrize("count", [pytest.param(50), pytest.param(1_000, marks=pytest.mark.soak)])
def test_clients_at_their_defaults_pay_more_than_once_or_lose_what_they_paid_in_a_storm(
    name: str, vendor: Vendor, count: int
) -> None:
    seed = random.randrange(10**6)
    vendor.weather = partial(draw, random.Random(seed))
    said = ask("storm", name, vendor.url, TOKEN, str(count))
    times = Counter(Counter(prompt_of(job) for job in vendor.jobs.values()).values())
    kept = count - sum(said["errors"].values())
    print(f"seed {seed}: {name}, {count} jobs, paid so many times: {dict(times)}, {said}")  # noqa: T201  for who reads on
    assert sum(many * jobs for many, jobs in times.items()) > kept, "no more was paid than there are videos"


def prompt_of(job: Job) -> str:
    asked = job.get("input") or job["form"]
    return str(asked.get("prompt") or asked["promptText"])


def test_replicates_own_check_believes_the_doubles_calls() -> None:
    with ReplicateDouble().serving() as double:
        order = ORDER._replace(model=FORMATS["replicate"].model)
        FORMATS["replicate"].connect(double).submit(Submission("j1-1", order))
        call = double.call(double.jobs["p1"])
    headers, body = json.dumps(call.headers), call.body.decode()
    assert ask("webhook", headers, body, SIGNING_SECRET) == {"signed": True}
    assert ask("webhook", headers, f"{body} ", SIGNING_SECRET)["error"] == "InvalidSignatureError"
