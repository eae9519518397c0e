"""The policies in force reach every process that they concern.

Each process works under policies of which no field is as shipped. What it reads of them is written down: a field with
the shipped value was taken from somewhere else. A section is one object: where one of its fields is the one in force,
all are, so the table names sections, and what a rule reads of one depends on the videos and jobs that it meets.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi.testclient import TestClient
from pydantic import BaseModel
from typer.testing import CliRunner

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.server import Connection, Server
from reelkeeper.cli import app as command
from reelkeeper.model.money import Metric, Used
from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.rules.core.tiers import TierPolicy, Tiers
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.settings import settings
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.tables import policy_versions
from tests.faults.world import LONG_AGO
from tests.flows.scenes import Scene
from tests.operations.asking import ask, claim, fox, make
from tests.policies import different, put_in_force

Reads = dict[str, set[object]]  # "LifecyclePolicy.grace_days" -> the values that were read
SECTIONS: Final = {type(getattr(DEFAULTS, name)): name for name in Policies.model_fields}
# Which process follows which section. `api` is the HTTP API, `worker` a run that makes jobs; flows and commands.
CONCERNS: Final[dict[str, set[str]]] = {
    "api": {"access", "admission", "tiers", "book", "lifecycle", "routing"},
    "worker": {"order", "tiers", "attempts", "breaker", "admission", "lifecycle"},
    "tier_storage": {"lifecycle", "tiers", "limits", "recipe", "acceptance"},
    "expire_videos": {"lifecycle", "tiers", "limits"},
    "purge_retired": {"lifecycle", "limits"},
    "sync_catalog": {"lifecycle", "limits", "adoption"},
    "back_up_store": {"record_retention"},
    "prune_cache": {"pruning", "record_retention"},
    "monitor_costs": {"budget", "anomaly", "book"},
    "monitor_performance": {"goals", "tiers"},
    "forecast_costs": {"lifecycle", "tiers", "book", "budget"},
    "tune_concurrency": {"concurrency", "book"},
    "status": {"budget"},
    "report": {"budget"},
    "queue": {"order", "tiers"},
    "quota": {"tiers"},
}
# Which of them say what becomes of a video, or what it costs until then: by the segment that decides about it.
BY_SEGMENT: Final = {"api", "tier_storage", "expire_videos", "forecast_costs"}


def tree(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a policy and those inside it: what stands in the list of tiers is the policy of each."""
    if model is Tiers:
        yield TierPolicy
        return
    yield model
    for field in model.model_fields.values():
        if isinstance(field.default, BaseModel):
            yield from tree(type(field.default))


CLASSES: Final = [item for section in SECTIONS for item in tree(section)]


@contextmanager
def written_down(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Record each field of a policy that is read, except by code that reads and merges whole documents."""
    reads: Reads = defaultdict(set)
    merging = {"reelkeeper.rules.policies", "reelkeeper.operations.core.policy_document", "tests.policies"}

    def spy(model: type[BaseModel]) -> Callable[[Any, str], Any]:
        def read(self: Any, name: str) -> Any:  # noqa: ANN401  whatever a field holds
            value = object.__getattribute__(self, name)
            if name in model.model_fields and sys._getframe(1).f_globals.get("__name__") not in merging:
                reads[f"{model.__name__}.{name}"].add(repr(value))
            return value

        return read

    with monkeypatch.context() as patch:
        for model in CLASSES:
            patch.setattr(model, "__getattribute__", spy(model), raising=False)
        yield reads


def values(policies: Policies) -> dict[str, set[object]]:
    """Return each field's values by class and name: of a tier's field, one for each tier."""
    found: dict[str, set[object]] = defaultdict(set)
    for section in Policies.model_fields:
        for model, instance in _instances(getattr(policies, section)):
            for name in model.model_fields:
                found[f"{model.__name__}.{name}"].add(repr(getattr(instance, name)))
    return found


def _instances(model: BaseModel) -> Iterator[tuple[type[BaseModel], BaseModel]]:
    if isinstance(model, Tiers):
        yield from ((TierPolicy, tier) for _, tier in model.items())
        return
    yield type(model), model
    for name in type(model).model_fields:
        if isinstance(inner := getattr(model, name), BaseModel):
            yield from _instances(inner)


def serve(scene: Scene) -> None:
    """Ask the API for what its policies decide, on a real socket."""
    _, token = tokens.create(scene.engine, "a test", tuple(Scope), author="test")
    workspace = replace(scene.world.workspace, in_force=current(scene.engine))  # as if opened now
    app_state = AppState(workspace, Path(scene.world.address.folder) / "scratch")
    app = create_app(app_state)
    server = Server(
        uvicorn.Config(app, port=0, http=Connection, ws="none", log_level="error"), app_state.load, lambda: None
    )
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}) as client:
            wanted = {"user_id": "ann", "request": {"model": "m", "prompt": "a dog"}}
            assert client.post("/v1/jobs", json=wanted, headers={"Idempotency-Key": "k"}).status_code == 202
            several = {"user_id": "ann", "request": {"model": "another", "prompt": "a dog"}}  # that make it
            assert client.post("/v1/jobs", json=several, headers={"Idempotency-Key": "k2"}).status_code == 202
            assert client.get("/v1/users/ann").status_code == 200
            assert client.get("/v1/users/ann/videos").status_code == 200
            assert client.get("/v1/videos/v0/url").status_code in (200, 404)
    finally:
        server.should_exit = True
        thread.join()
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/v1/metrics").status_code == 200


def tune(scene: Scene) -> None:
    """Steer by a job whose provider named no price."""
    made = ask(scene.engine, "made", fox(prompt="a cat"))
    assert isinstance(made, Queued)
    make(scene.engine, made.job_id)
    settle.succeed(scene.engine, Attempt(made.job_id, claim(scene.engine, made.job_id)), run_id="test")
    flow("tune_concurrency")


def work(scene: Scene) -> None:
    flow("dispatch_jobs", until_idle=True)
    del scene


def flow(name: str, **options: Any) -> None:  # noqa: ANN401  parameters
    run = getattr(import_module(f"flows.{name}"), name)
    for dry_run in (True, False):
        run(dry_run=dry_run, **options)


def run(*words: str) -> None:
    settings.cache_clear()
    done = CliRunner().invoke(command, list(words))
    assert done.exit_code == 0, done.output


PROCESSES: Final[dict[str, Callable[[Scene], None]]] = {
    "api": serve,
    "worker": work,
    **{
        name: (lambda _, name=name: flow(name))  # type: ignore[misc]  # bound at once
        for name in CONCERNS
        if "_" in name
    },
    "tune_concurrency": tune,
    "status": lambda _: run("status", "--json"),
    "report": lambda scene: run("report", "--output", str(Path(scene.world.address.folder) / "report.html")),
    "queue": lambda _: run("queue"),
    "quota": lambda _: run("quota", "show", "ann"),
}


def arrange(scene: Scene, wanted: Policies) -> None:
    """Put `wanted` in force in a deployment with videos, usage, and a job that waits."""
    for number, age_days in enumerate((10, 40, 400)):
        scene.video(f"v{number}", age_days=age_days)
    with transaction(scene.engine, "test") as session:
        ledger.grant(session, "ann", 10**9, "first", run_id="test")
        days = [now(session).date() - timedelta(days=n) for n in range(3)]
        record(session, [Used(day, Metric.JOBS, 40, "m", user_id=user) for day in days for user in ("", "ann")])
        record(session, [Used(day, Metric.STORED_BYTES, 10**6, "bucket") for day in days])
    put_in_force(scene.engine, **{name: getattr(wanted, name) for name in Policies.model_fields})
    with transaction(scene.engine, "test") as session:  # at the beginning of a month, the one before is charged, too
        session.execute(sa.update(policy_versions).values(created_at=LONG_AGO))
    ask(scene.engine, "waits", fox(width=64, height=64, duration_seconds=0.5, fps=8))


@pytest.mark.long("all fronts and flows run on one deployment")
def test_every_process_follows_the_policies_in_force_and_no_others(
    make_scene: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("flows.dispatch_jobs", *(f"flows.{name}" for name in CONCERNS if "_" in name)):
        import_module(module)  # its parameters' descriptions name what is shipped, once
    wanted = different()
    other, everything = values(wanted), set[str]()
    shipped = {name: found - other[name] for name, found in values(DEFAULTS).items()}
    misses, silent = dict[str, dict[str, set[object]]](), dict[str, set[str]]()
    for process, concerns in CONCERNS.items():
        scene = make_scene()
        arrange(scene, wanted)
        with written_down(monkeypatch) as reads:
            PROCESSES[process](scene)
        misses[process] = {name: found for name, found in reads.items() if shipped[name] & found}
        read = {
            section
            for model, section in SECTIONS.items()
            if any(name.partition(".")[0] == next(tree(model)).__name__ for name in reads)
        }
        silent[process] = concerns - read
        if process in BY_SEGMENT and "LifecyclePolicy.segments" not in reads:
            silent[process].add("lifecycle.segments")
        everything |= reads.keys()
    assert not {process: found for process, found in misses.items() if found}, "followed what is shipped"
    assert not {process: found for process, found in silent.items() if found}, "did not ask for what concerns them"
    unread = {model.__name__ for model in CLASSES} - {name.partition(".")[0] for name in everything}
    assert not unread, f"{sorted(unread)}: policies that no process reads"


def test_no_field_of_a_policy_is_read_by_nothing() -> None:
    root = Path(__file__).parents[2]
    source = "\n".join(path.read_text() for room in ("reelkeeper", "flows") for path in (root / room).rglob("*.py"))
    read = {*re.findall(r"[.\"](\w+)", source)}
    assert not [f"{model.__name__}.{name}" for model in CLASSES for name in model.model_fields if name not in read]
