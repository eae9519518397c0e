"""What the fault suites do in child processes: each scenario is a run of one flow's work, and also its own recovery."""

import hashlib
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import httpx
import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.generator import HttpGenerator
from reelkeeper.adapters.generator.provider import Provider
from reelkeeper.adapters.s3 import r2
from reelkeeper.errors import NotFound
from reelkeeper.model import Grace, Refusal, Transcode
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core.lease import Keeper
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import worker
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.swap import swap
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import confirm_missing, survey
from reelkeeper.operations.videos import intents, receive
from reelkeeper.operations.videos.complete import complete
from reelkeeper.operations.videos.receive import Announced
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.guard import BlastRadius, listing_within
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import videos
from tests.doubles.provider import TOKEN
from tests.faults.world import LONG_AGO, Address

# What each child would otherwise find out for itself, 0.3 s each time: S3's model, and what ffmpeg can do.
r2.connect("http://127.0.0.1:1", "none", "none", "none", "none/")
ffmpeg.tools()

Scenario = Callable[[Depot, Address, dict[str, object]], None]


def child(scenario: str, address: Address, spec: str, arguments: dict[str, object]) -> None:
    """Run a scenario in this process with `spec` armed. The joining of store and bucket is not part of it."""
    depot = address.depot()
    failpoints.arm(spec)
    SCENARIOS[scenario](depot, address, arguments)
    os._exit(0)  # what a forked child inherits is not its own to clean up


def run_swap(depot: Depot, address: Address, arguments: dict[str, object]) -> None:
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["video/v1"])
        swap(
            depot,
            "v1",
            int(str(arguments["blob"])),
            shrink=lambda _, place: ready(arguments["result"], place),
            scratch=Path(address.folder) / "scratch",
            grant=grant,
            run_id="run",
            grace=Grace(),
        )


def run_dispatch(depot: Depot, address: Address, arguments: dict[str, object]) -> None:
    """Run what waits, by a provider, in one slot."""
    provider = Provider(str(arguments["provider"]), TOKEN, allow_private=True, timeout_seconds=60.0)
    worker.work(
        depot,
        HttpGenerator(provider, poll_seconds=0.05),
        run_id="run",
        scratch=Path(address.folder) / "scratch",
        slots=1,
        seconds=30,
        limit=lambda: 99,
        until_idle=True,
    )


def ready(result: object, place: Path) -> Transcode | Refusal:
    """Give the transcode made beforehand, as if it had just been made here."""
    assert isinstance(result, Transcode)
    copy = place / "result.webm"
    shutil.copyfile(result.path, copy)
    return Transcode(**{name: getattr(result, name) for name in Transcode.__slots__} | {"path": str(copy)})


def run_upload(depot: Depot, address: Address, arguments: dict[str, object]) -> None:
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["video/new"])
        upload(
            depot,
            Path(str(arguments["clip"])),
            user_id="eve",
            video_id="new",
            created_at=LONG_AGO,
            scratch=Path(address.folder) / "scratch",
            grant=grant,
            run_id="run",
            grace=Grace(),
        )


def run_retire(depot: Depot, _: Address, arguments: dict[str, object]) -> None:
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["flow/expire_videos"])
        retire(depot, str(arguments["plan"]), ["v1", "v2"], grant=grant, run_id="run", grace=Grace())


def run_purge(depot: Depot, _: Address, arguments: dict[str, object]) -> None:
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["flow/purge_retired"])
        due = arguments["blobs"]
        assert isinstance(due, list)
        settle_claims(depot, run_id="run", grace=Grace(), grant=grant)
        purge(depot, str(arguments["plan"]), due, grant=grant, run_id="run", grace=Grace())


def run_restore(depot: Depot, _: Address, __: dict[str, object]) -> None:
    try:
        batch = find_restorable(depot, run_id="before")
    except NotFound:
        return  # an earlier run has restored all
    restore(depot, batch, run_id="run", author="test", grace=Grace(), hold_days=30)


def run_job(depot: Depot, address: Address, arguments: dict[str, object]) -> None:
    """Hold credits and bytes, make the video, capture: what a job does, and does again after a crash."""
    clip = Path(str(arguments["clip"]))
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["video/new"])
        scratch = Path(address.folder) / "scratch"
        for left_open in intents.open_intents(depot, "new"):
            intents.settle(depot, left_open, scratch=scratch, grant=grant, grace=Grace())
        with transaction(depot.engine, "job.admit") as session:
            held = ledger.hold(session, "ann", 500, "job", run_id="run", lasting_seconds=600)
            made = session.execute(
                sa.select(videos.c.id).where(videos.c.id == "new", videos.c.state == "live")
            ).scalar()
            tries = (f"job, try {number}" for number in count(1))  # an abandoned try has given its bytes back
            promised = (quota.reserve(session, "ann", clip.stat().st_size, key, lasting_seconds=600) for key in tries)
            reservation = None if made else next(one.id for one in promised if one.state == "open")
        if not made:
            upload(
                depot,
                clip,
                user_id="ann",
                video_id="new",
                created_at=LONG_AGO,
                scratch=scratch,
                grant=grant,
                run_id="run",
                grace=Grace(),
                reservation=reservation,
            )
        with transaction(depot.engine, "job.settle") as session:
            ledger.capture(session, str(held.hold_id), 300, "job done", run_id="run")


def run_receive(depot: Depot, address: Address, arguments: dict[str, object]) -> None:
    """Begin an upload, put it by its URL, complete it: what a service does, and does again after a crash."""
    data = Path(str(arguments["clip"])).read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    upload, ticket = receive.begin(depot, Announced("ann", "new", len(data), md5, "mp4"), "key", url_seconds=600)
    if ticket:
        answer = httpx.put(ticket.url, content=data, headers=ticket.headers, trust_env=False)
        assert answer.status_code in (200, 412), answer.text
    scratch = Path(address.folder) / "scratch"
    assert complete(depot, upload.id, scratch=scratch, run_id="run", grace=Grace()).state == "settled"


def run_settle_accounts(depot: Depot, _: Address, __: dict[str, object]) -> None:
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["flow/settle_accounts"])
        accounts.void_holds(depot.engine, grant=grant, run_id="run")
        accounts.void_reservations(depot.engine, grant=grant)
        assert not accounts.recount(depot.engine)


def run_sync(depot: Depot, address: Address, _: dict[str, object]) -> None:
    orphans.ORPHAN_MIN_AGE *= 0  # LastModified cannot be dated back
    with Keeper(depot.engine) as keeper:
        (grant,) = keeper.take(["flow/sync_catalog"])
        settle_claims(depot, run_id="run", grace=Grace(), grant=grant)
        for intent in intents.open_intents(depot):
            for lease in keeper.take([f"video/{intent.video_id}"]):
                intents.settle(depot, intent, scratch=Path(address.folder) / "scratch", grant=lease, grace=Grace())
        found = survey(depot, run_id="run", note=True)
        listing_within(BlastRadius(min_population_percent=10), found.seen, found.expected)
        confirm_missing(depot, found)
        adoption.judge(depot, found.scan_id, AdoptionLimits())
        orphans.adopt(depot, found, grant=grant, run_id="run")
        sync.lose(depot, found, grant=grant, run_id="run")
        sync.mend(depot, found, grant=grant, run_id="run", grace=Grace())
        orphans.sweep(depot, found, grant=grant, run_id="run", grace=Grace())
        sync.finish(depot, found, "done")


SCENARIOS: dict[str, Scenario] = {
    "swap": run_swap,
    "upload": run_upload,
    "retire": run_retire,
    "purge": run_purge,
    "restore": run_restore,
    "sync": run_sync,
    "job": run_job,
    "receive": run_receive,
    "dispatch": run_dispatch,
    "settle_accounts": run_settle_accounts,
}
