"""Benchmark purging 5,000 blobs with all checks, against a serial boto3 that deletes as many without checks."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from bench.report import Row, spent
from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.purge import BATCHES_AT_ONCE, KEYS_AT_ONCE, purge
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.leases import Lease, acquire
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.lifecycle.plan_writer import begin_plan
from reelkeeper.store.lifecycle.plans import planned
from reelkeeper.store.lifecycle.purge_plan import add_due
from reelkeeper.store.tables import blobs, users, videos
from tests.buckets import bare_boto3

SIZE, ROUNDS = 5_000, 2
BUCKET = "reelkeeper"
CONTENT = b"a video, for all that a purge knows"


def measure() -> Iterator[Row]:
    """Measure the time of each, the better of two rounds; store and objects exist already."""
    ways: dict[str, Callable[[Endpoint, Path], Callable[[], object]]] = {"bare": _bare, "ours": _ours}
    best = dict[str, float]()
    with tempfile.TemporaryDirectory() as folder, seaweed.running(Path(folder), BUCKET) as at:
        for number, (name, prepared) in enumerate([*ways.items()] * ROUNDS):
            place = Path(folder) / f"round-{number}"  # also a prefix in the bucket: each store has one of its own
            _fill(at, place)
            _, took = spent(prepared(at, place))
            if any(_bucket(at, place).pages()):
                raise RuntimeError(f"{name}: objects are left")
            best[name] = min(best.get(name, took.wall), took.wall)
    yield Row(f"purge {SIZE:,} blobs: time", best["ours"], "serial boto3", best["bare"], 2.0)


def _bucket(at: Endpoint, place: Path) -> Bucket:
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, f"{place.name}/")


def _keys(place: Path) -> list[str]:
    return [f"{place.name}/u{number // 1000}/v{number:05}.mp4" for number in range(SIZE)]


def _fill(at: Endpoint, place: Path) -> None:
    client = bare_boto3(at)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=CONTENT), _keys(place)))


def _bare(at: Endpoint, place: Path) -> Callable[[], object]:
    """Return a function that deletes a thousand at a time, in sequence."""
    client, keys = bare_boto3(at), _keys(place)
    batches = [[{"Key": key} for key in keys[start : start + 1000]] for start in range(0, SIZE, 1000)]
    return lambda: [client.delete_objects(Bucket=BUCKET, Delete={"Objects": batch}) for batch in batches]


def _ours(at: Endpoint, place: Path) -> Callable[[], object]:
    """Create a store whose blobs are due, and a plan to purge them; return a function that carries it out."""
    workspace, now = _catalogue(at, place), datetime.now(UTC)
    engine, grace = workspace.engine, Grace()
    plan_id = begin_plan(engine, "purge_retired", {}, now, "bench")
    add_due(engine, plan_id, now, grace=grace, service_keys=True, max_videos=SIZE, microusd_per_gb=15_000)
    (lease,) = acquire(engine, ["flow:purge_retired"], "bench", 3600)
    return partial(_carry_out, workspace, plan_id, lease)


def _carry_out(workspace: Workspace, plan_id: str, lease: Lease) -> None:
    """Purge as the flow does, without Prefect."""
    with reading(workspace.engine) as session:
        batches = [[item.blob_id for item in batch] for batch in planned(session, plan_id, "purge", KEYS_AT_ONCE)]
    with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
        work = partial(purge, workspace, plan_id, lease=lease, run_id="bench", grace=Grace())
        outcomes = [outcome for batch in pool.map(work, batches) for outcome in batch]
    if [outcome.action for outcome in outcomes] != ["purged"] * SIZE:
        raise RuntimeError(f"not purged: {[outcome for outcome in outcomes if outcome.action != 'purged'][:3]}")
    workspace.engine.dispose()


def _catalogue(at: Endpoint, place: Path) -> Workspace:
    """Create a store of retired videos, whose bytes are due."""
    engine, now = open_engine(f"sqlite:///{place}.sqlite3"), datetime.now(UTC)
    upgrade(engine)
    keys = _keys(place)
    etag = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    blob = {"generation": 1, "size_bytes": len(CONTENT), "etag": etag, "stored_at": now - timedelta(days=60)}
    due = {"state": BlobState.RETIRED, "retired_at": now - timedelta(days=8), "purge_after": now - timedelta(days=1)}
    with transaction(engine, "bench.fill") as session:
        session.execute(sa.insert(users), [{"id": "ann", "tier": "free"}])
        retired = [{"id": key, "user_id": "ann", "state": VideoState.RETIRED} for key in keys]
        session.execute(sa.insert(videos), retired)
        session.execute(
            sa.insert(blobs),
            [{"id": number, "video_id": key, "key": key, **blob, **due} for number, key in enumerate(keys, start=1)],
        )
        own = sa.select(blobs.c.id).where(blobs.c.video_id == videos.c.id).scalar_subquery()
        session.execute(sa.update(videos).values(blob_id=own))
    return Workspace(engine, _bucket(at, place), "bench")
