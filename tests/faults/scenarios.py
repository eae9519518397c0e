"""Scenarios for child processes of the fault suites: each runs one flow's work, and is also its own recovery."""

import hashlib
import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import cast

import httpx
import sqlalchemy as sa
from fastapi.testclient import TestClient

from reelkeeper import failpoints
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.adapters.providers.contract import Generators
from reelkeeper.adapters.s3 import r2
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.errors import NotFound
from reelkeeper.model import Grace, Transcode
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core import adopt_store
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import worker
from reelkeeper.operations.lifecycle import notices
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import confirm_missing, survey
from reelkeeper.operations.videos import intents, receive
from reelkeeper.operations.videos.complete import complete
from reelkeeper.operations.videos.receive import Announced
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.guard import BlastRadius, listing_within
from reelkeeper.rules.lifecycle.transcode import Placement
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import videos
from tests.adapters.providers.formats import FORMATS
from tests.faults import choices
from tests.faults.world import LONG_AGO, Address
from tests.operations.shop import SMALL, key_of
from tests.swapping import shrinker, swap
from tests.tiers import tiers

# What each child would otherwise find out for itself, 0.3 s each time: S3's model, and what ffmpeg can do.
r2.connect("http://127.0.0.1:1", "none", "none", "none", "none/")
ffmpeg.tools()

Scenario = Callable[[Workspace, Address, dict[str, object]], None]


def child(scenario: str, address: Address, spec: str, arguments: dict[str, object]) -> None:
    """Run a scenario in this process with `spec` armed. The joining of store and bucket is not part of it."""
    workspace = address.workspace()
    failpoints.arm(spec)
    SCENARIOS[scenario](workspace, address, arguments)
    os._exit(0)  # what a forked child inherits is not its own to clean up


def run_swap(
    workspace: Workspace, address: Address, arguments: dict[str, object], placement: Placement = "new_key"
) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["video/v1"])
        swap(
            workspace,
            "v1",
            int(str(arguments["blob"])),
            shrinker(cast("Transcode", arguments["result"])),
            Run("run", lease, Grace(), Path(address.folder) / "scratch"),
            placement,
        )


def run_swap_in_place(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    run_swap(workspace, address, arguments, "in_place")


def run_undo_in_place(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Replace in place with unexpected bytes, or settle what a killed run has left of that."""
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["video/v1"])
        left = intents.open_intents(workspace, "v1")
        for intent in left:
            intents.settle(workspace, intent, scratch=Path(address.folder) / "scratch", lease=lease, grace=Grace())
    if not left:
        run_swap_in_place(workspace, address, arguments)


def run_dispatch(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Run what waits, by one or more providers, in one slot or more. `urls` are theirs, by their names in FORMATS."""
    if "choices" in arguments:
        choices.record(Path(str(arguments["choices"])))
    urls = cast("dict[str, str]", arguments["urls"])
    generators = {
        name: RemoteGenerator(FORMATS[name].connect(url), model=FORMATS[name].model, poll_seconds=0.05)
        for name, url in urls.items()
    }
    worker.work(
        workspace,
        Generators(generators, next(iter(generators))),
        worker.Shift(
            slots=int(str(arguments.get("slots", 1))),
            seconds=float(str(arguments.get("seconds", 30))),
            until_idle=bool(arguments.get("until_idle", True)),
        ),
        run_id="run",
        scratch=Path(address.folder) / "scratch",
        limit=lambda: 99,
    )


def run_api(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Answer ann over HTTP, who asks for a small video by each of the prompts."""
    app = create_app(AppState(workspace, Path(address.folder) / "api"))
    prompts = arguments["prompts"]
    assert isinstance(prompts, list)
    with TestClient(app, headers={"Authorization": f"Bearer {arguments['token']}"}) as client:
        for prompt in prompts:
            wanted = {"user_id": "ann", "request": {**SMALL, "prompt": prompt}}
            headers = {"Idempotency-Key": key_of(prompt)}
            while (answer := client.post("/v1/jobs", json=wanted, headers=headers)).status_code == 429:
                time.sleep(float(answer.headers["Retry-After"]))
            assert answer.status_code == 202, answer.text


def run_upload(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["video/new"])
        upload(
            workspace,
            Path(str(arguments["clip"])),
            Incoming("eve", "new", LONG_AGO),
            scratch=Path(address.folder) / "scratch",
            lease=lease,
            run_id="run",
            grace=Grace(),
        )


def run_retire(workspace: Workspace, _: Address, arguments: dict[str, object]) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["flow/expire_videos"])
        retire(workspace, str(arguments["plan"]), ["v1", "v2"], lease=lease, run_id="run", grace=Grace())


def run_notify(workspace: Workspace, _: Address, arguments: dict[str, object]) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["flow/expire_videos"])
        rules = DEFAULTS.overridden(tiers=tiers(free={"notice_days": 14}))
        notices.carry_out(workspace.engine, str(arguments["plan"]), ["v1", "v2"], rules, lease=lease, run_id="run")


def run_purge(workspace: Workspace, _: Address, arguments: dict[str, object]) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["flow/purge_retired"])
        due = arguments["blobs"]
        assert isinstance(due, list)
        settle_claims(workspace, run_id="run", grace=Grace(), lease=lease)
        purge(workspace, str(arguments["plan"]), due, lease=lease, run_id="run", grace=Grace())


def run_adopt(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Adopt an old state of the store, and try to purge all whose old graces are over."""
    seen = adopt_store.look(workspace)
    if seen.why:
        adopt_store.adopt(workspace, seen, by="test")
    run_purge(workspace, address, arguments)


def run_restore(workspace: Workspace, address: Address, _: dict[str, object]) -> None:
    try:
        batch = find_restorable(workspace, run_id="before")
    except NotFound:
        return  # an earlier run has restored all
    scratch = Path(address.folder) / "scratch"
    restore(workspace, batch, run_id="run", author="test", grace=Grace(), hold_days=30, scratch=scratch)


def run_job(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Hold credits and bytes, make the video, capture: what a job does, and does again after a crash."""
    clip = Path(str(arguments["clip"]))
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["video/new"])
        scratch = Path(address.folder) / "scratch"
        for left_open in intents.open_intents(workspace, "new"):
            intents.settle(workspace, left_open, scratch=scratch, lease=lease, grace=Grace())
        with transaction(workspace.engine, "job.admit") as session:
            held = ledger.hold(session, "ann", 500, "job", run_id="run", lasting_seconds=600)
            made = session.execute(
                sa.select(videos.c.id).where(videos.c.id == "new", videos.c.state == "live")
            ).scalar()
            tries = (f"job, try {number}" for number in count(1))  # an abandoned try has given its bytes back
            promised = (quota.reserve(session, "ann", clip.stat().st_size, key, lasting_seconds=600) for key in tries)
            reservation = None if made else next(item.id for item in promised if item.state == "open")
        if not made:
            upload(
                workspace,
                clip,
                Incoming("ann", "new", LONG_AGO, reservation=reservation),
                scratch=scratch,
                lease=lease,
                run_id="run",
                grace=Grace(),
            )
        with transaction(workspace.engine, "job.settle") as session:
            ledger.capture(session, str(held.hold_id), 300, "job done", run_id="run")


def run_receive(workspace: Workspace, address: Address, arguments: dict[str, object]) -> None:
    """Begin an upload, put it by its URL, complete it: what a service does, and does again after a crash."""
    data = Path(str(arguments["clip"])).read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    upload, ticket = receive.begin(workspace, Announced("ann", "new", len(data), md5, "mp4"), "key", url_seconds=600)
    if ticket:
        answer = httpx.put(ticket.url, content=data, headers=ticket.headers, trust_env=False, timeout=60)
        assert answer.status_code in (200, 412), answer.text
    scratch = Path(address.folder) / "scratch"
    assert complete(workspace, upload.id, scratch=scratch, run_id="run", grace=Grace()).state == "settled"


def run_settle_accounts(workspace: Workspace, _: Address, __: dict[str, object]) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["flow/settle_accounts"])
        accounts.void_holds(workspace.engine, lease=lease, run_id="run")
        accounts.void_reservations(workspace.engine, lease=lease)
        assert not accounts.recount(workspace.engine)


def run_sync(workspace: Workspace, address: Address, _: dict[str, object]) -> None:
    orphans.ORPHAN_MIN_AGE *= 0  # LastModified cannot be dated back
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["flow/sync_catalog"])
        settle_claims(workspace, run_id="run", grace=Grace(), lease=lease)
        for intent in intents.open_intents(workspace):
            for lease in manager.take([f"video/{intent.video_id}"]):
                intents.settle(workspace, intent, scratch=Path(address.folder) / "scratch", lease=lease, grace=Grace())
        found = survey(workspace, run_id="run", note=True)
        listing_within(BlastRadius(min_population_percent=10), found.seen, found.expected)
        confirm_missing(workspace, found)
        adoption.judge(workspace, found.scan_id, AdoptionLimits())
        orphans.adopt(workspace, found, lease=lease, run_id="run")
        sync.lose(workspace, found, lease=lease, run_id="run")
        sync.mend(workspace, found, lease=lease, run_id="run", grace=Grace())
        orphans.sweep(workspace, found, lease=lease, run_id="run", grace=Grace())
        sync.finish(workspace, found, "done")


SCENARIOS: dict[str, Scenario] = {
    "swap": run_swap,
    "swap_in_place": run_swap_in_place,
    "swap_in_parts": run_swap_in_place,
    "undo_in_place": run_undo_in_place,
    "restore_in_place": run_restore,
    "upload": run_upload,
    "retire": run_retire,
    "notify": run_notify,
    "purge": run_purge,
    "adopt": run_adopt,
    "restore": run_restore,
    "sync": run_sync,
    "job": run_job,
    "receive": run_receive,
    "dispatch": run_dispatch,
    "api": run_api,
    "settle_accounts": run_settle_accounts,
}
