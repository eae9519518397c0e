"""Benchmark purging 10,000 blobs with all checks, against a serial boto3 that deletes as many without checks."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from bench.report import Row
from bench.s3 import peers, shelf
from bench.s3.stopwatch import Spent, spent
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.leases import Lease, acquire
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.lifecycle.plan_writer import begin_plan
from reelkeeper.store.lifecycle.plans import planned
from reelkeeper.store.lifecycle.purge_plan import add_due
from reelkeeper.store.tables import blobs, users, videos
from tasks.blobs import KEYS_PER_DELETE, PARALLEL_BATCHES
from tests.buckets import bare_boto3

SIZE = 10_000
ROUNDS = 2
FLOOR = "bare boto3, serial"
PREFIX = "purging/videos/"
SUCCESSORS = "purging/videos/successors/"  # the current bytes of the videos whose old bytes are purged

Work = Callable[[], object]


def measure() -> list[Row]:
    """Measure CPU and wall time of each, the better of two rounds, one for peers; store and objects exist already."""
    ways: dict[str, Callable[[Endpoint, Path], Work]] = {
        FLOOR: lambda at, _: partial(bare, at),
        "bytes of retired videos": partial(ours, replaced=False),
        "bytes that were replaced": partial(ours, replaced=True),
        "peer: s5cmd rm": lambda at, _: partial(peers.s5cmd, at, "rm", f"s3://{shelf.BUCKET}/{PREFIX}u*"),
        "peer: rclone delete": lambda at, _: partial(
            peers.rclone, at, "delete", "--fast-list", "--exclude", "/successors/**", f"r2:{shelf.BUCKET}/{PREFIX}"
        ),
    }
    best: dict[str, Spent] = {}
    with shelf.server() as at, tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            for name, prepared in ways.items():
                if turn and name.startswith("peer"):
                    continue  # seen once is enough, and most of the time here goes into storing what is then deleted
                shelf.fill(at, SUCCESSORS, SIZE)
                shelf.fill(at, PREFIX, SIZE, beside=SUCCESSORS)
                work = prepared(at, Path(folder) / f"{name} {turn}.sqlite3")
                _, took = spent(work)
                if shelf.count(at, PREFIX) != SIZE:  # the successors
                    raise RuntimeError(f"{name}: {shelf.count(at, PREFIX):,} objects are left, not {SIZE:,}")
                before = best.get(name, took)
                best[name] = Spent(min(before.cpu, took.cpu), min(before.wall, took.wall))
    floor = best.pop(FLOOR)
    rows = []
    for name, took in best.items():
        limit = None if name.startswith("peer") else 2.0
        rows.append(Row(f"purge {SIZE:,}, {name}: time", took.wall, floor.wall, took.wall / floor.wall, limit))
        rows.append(Row(f"purge {SIZE:,}, {name}: CPU", took.cpu, floor.cpu, took.cpu / floor.cpu, None))
    return rows


def bare(at: Endpoint) -> None:
    """Delete a thousand at a time, in sequence."""
    client, doomed = bare_boto3(at), shelf.keys(PREFIX, SIZE)
    for start in range(0, SIZE, 1000):
        batch = [{"Key": key} for key in doomed[start : start + 1000]]
        client.delete_objects(Bucket=shelf.BUCKET, Delete={"Objects": batch, "Quiet": True})


def ours(at: Endpoint, path: Path, *, replaced: bool) -> Work:
    """Create a store whose blobs are due, and a plan to purge them; return a function that carries it out."""
    workspace = catalogue(at, path, replaced=replaced)
    plan_id = begin_plan(workspace.engine, "purge_retired", {}, datetime.now(UTC), "bench")
    add_due(
        workspace.engine,
        plan_id,
        datetime.now(UTC),
        grace=Grace(),
        service_keys=True,
        max_videos=SIZE,
        microusd_per_gb=15_000,
    )
    (lease,) = acquire(workspace.engine, ["flow:purge_retired"], "bench", 3600)
    return partial(carry_out, workspace, plan_id, lease)


def carry_out(workspace: Workspace, plan_id: str, lease: Lease) -> None:
    """Purge as the flow does, without Prefect."""
    with reading(workspace.engine) as session:
        batches = [[item.blob_id for item in batch] for batch in planned(session, plan_id, "purge", KEYS_PER_DELETE)]
    with ThreadPoolExecutor(PARALLEL_BATCHES) as pool:
        work = partial(purge, workspace, plan_id, lease=lease, run_id="bench", grace=Grace())
        outcomes = [outcome for batch in pool.map(work, batches) for outcome in batch]
    if [outcome.action for outcome in outcomes] != ["purged"] * SIZE:
        raise RuntimeError(f"not purged: {[outcome for outcome in outcomes if outcome.action != 'purged'][:3]}")
    workspace.engine.dispose()


def catalogue(at: Endpoint, path: Path, *, replaced: bool) -> Workspace:
    """Create a store of SIZE videos: retired, with bytes that are due, or live, with earlier bytes that are due."""
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    bucket = shelf.open_prefix(at, PREFIX)
    now = datetime.now(UTC)
    old = shelf.keys(PREFIX, SIZE)
    state = VideoState.LIVE if replaced else VideoState.RETIRED
    ids = [f"v{number}" for number in range(SIZE)]
    blob = {"size_bytes": len(shelf.CONTENT), "etag": shelf.ETAG, "stored_at": now - timedelta(days=60)}
    due = {"state": BlobState.RETIRED, "retired_at": now - timedelta(days=8), "purge_after": now - timedelta(days=1)}
    rows = [
        {"id": number + 1, "video_id": ids[number], "generation": 1, "key": old[number], **blob, **due}
        for number in range(SIZE)
    ]
    with transaction(engine, "bench.fill") as session:
        session.execute(sa.insert(users), [{"id": "ann", "tier": "free"}])
        session.execute(sa.insert(videos), [{"id": id_, "user_id": "ann", "state": state} for id_ in ids])
        session.execute(sa.insert(blobs), rows)
        current = 0
        if replaced:
            current = SIZE
            present = {"generation": 2, "state": BlobState.LIVE, **blob}
            session.execute(
                sa.insert(blobs),
                [
                    {"id": SIZE + number + 1, "video_id": ids[number], "key": key, **present}
                    for number, key in enumerate(shelf.keys(SUCCESSORS, SIZE))
                ],
            )
        own = sa.select(blobs.c.id).where(blobs.c.video_id == videos.c.id, blobs.c.id > current).scalar_subquery()
        session.execute(sa.update(videos).values(blob_id=own))
    return Workspace(engine, bucket, "bench")
