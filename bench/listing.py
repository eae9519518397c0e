"""Benchmark listing 100,000 objects and comparing them with the catalogue, against a bare boto3 pagination.

The same with a distant server, where a page takes 100 ms: in one pass, and in parallel shards.
"""

import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from bench.report import Row
from bench.s3 import peers, shelf
from bench.s3.stopwatch import Spent, spent
from reelkeeper.adapters.s3.listing import PAGE_KEYS
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, StoredObject, VideoState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync.survey import survey
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import blobs, users, videos
from tests.buckets import bare_boto3

SIZE = 100_000
PREFIX = "listing/videos/"
ROUNDS = 2
PAIRS = 5
OURS, PEER = "list and reconcile with the catalogue", "peer: s5cmd ls"
AWAY_SECONDS, SHARDS = 0.1, 8


def measure() -> list[Row]:
    """Measure CPU and wall time of each, the better of two alternating rounds; the floor is a default boto3."""
    with shelf.server() as at, tempfile.TemporaryDirectory() as folder:
        shelf.fill(at, PREFIX, SIZE)
        workspace = catalogue(at, Path(folder) / "store.sqlite3")
        ways: dict[str, Callable[[], int]] = {
            "bare boto3": lambda: bare(at),
            OURS: lambda: reconcile(workspace),
            "list alone": lambda: sum(len(page) for page in workspace.bucket.pages()),
            PEER: lambda: peers.s5cmd(at, "ls", f"s3://{shelf.BUCKET}/{PREFIX}*").count("\n"),
            "peer: rclone lsf": lambda: peers.rclone(
                at, "lsf", "-R", "--files-only", "--format", "ps", "--fast-list", f"r2:{shelf.BUCKET}/{PREFIX}"
            ).count("\n"),
        }
        best: dict[str, Spent] = {}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                found, took = spent(way)
                if found != SIZE:
                    raise RuntimeError(f"{name}: {found:,} objects, not {SIZE:,}")
                before = best.get(name, took)
                best[name] = Spent(min(before.cpu, took.cpu), min(before.wall, took.wall))
        pairs = [(spent(ways[OURS])[1], spent(ways[PEER])[1]) for _ in range(PAIRS)]
        with far_away(workspace):
            spending, several = (spent(partial(reconcile, workspace, shards))[1] for shards in (1, SHARDS))
        workspace.engine.dispose()
    floor = best.pop("bare boto3")
    rows = []
    for name, took in best.items():
        limit = 1.0 if name == OURS else None
        rows.append(Row(f"{SIZE:,} objects, {name}: CPU", took.cpu, floor.cpu, took.cpu / floor.cpu, limit))
        rows.append(Row(f"{SIZE:,} objects, {name}: time", took.wall, floor.wall, took.wall / floor.wall, limit))
    ours, peer = sorted(pairs, key=lambda pair: pair[0].cpu / pair[1].cpu)[PAIRS // 2]
    what = f"{SIZE:,} objects, list and reconcile, to a bare s5cmd ls, the median of {PAIRS} pairs: CPU"
    rows.append(Row(what, ours.cpu, peer.cpu, ours.cpu / peer.cpu, 1.0))
    what = f"{SIZE:,} objects, 100 ms a page, {SHARDS} shards, to one pass: time"
    return [*rows, Row(what, several.wall, spending.wall, several.wall / spending.wall, 0.5)]


@contextmanager
def far_away(workspace: Workspace) -> Iterator[None]:
    """Answer every page of the listing 100 ms later, from memory, like a distant server and without using CPU."""
    distant: Any = _Distant([stored for page in workspace.bucket.pages() for stored in page])
    events = workspace.bucket._client.meta.events  # noqa: SLF001  no setting makes a network slow
    events.register_first("before-send.s3.ListObjectsV2", distant)
    yield
    events.unregister("before-send.s3.ListObjectsV2", distant)


class _Distant:
    """A server's pages, in the order of the keys; the token of a page is the last key of the previous one."""

    def __init__(self, stored: list[StoredObject]) -> None:
        self._stored = sorted(stored, key=attrgetter("key"))
        self._keys = [stored_object.key for stored_object in self._stored]

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        time.sleep(AWAY_SECONDS)
        query = parse_qs(urlsplit(request.url).query)
        (after,) = query.get("continuation-token") or query.get("start-after") or [""]
        first = bisect_right(self._keys, after)
        page = self._stored[first : first + PAGE_KEYS]
        more = first + PAGE_KEYS < len(self._keys)
        token = f"<NextContinuationToken>{page[-1].key}</NextContinuationToken>" if more else ""
        entries = "".join(
            f"<Contents><Key>{stored_object.key}</Key><LastModified>{stored_object.last_modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{stored_object.etag}</ETag><Size>{stored_object.size_bytes}</Size></Contents>"
            for stored_object in page
        )
        head = f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        body = _Body(f"<ListBucketResult>{head}{entries}</ListBucketResult>".encode())
        return AWSResponse(request.url, 200, HTTPHeaders(), body)


class _Body(BytesIO):
    def stream(self) -> Iterator[bytes]:
        """Yield the whole body, as urllib3 does."""
        yield self.read()


def bare(at: Endpoint) -> int:
    """Page through the prefix as in boto3's manual."""
    pages = bare_boto3(at).get_paginator("list_objects_v2").paginate(Bucket=shelf.BUCKET, Prefix=PREFIX)
    return sum(len(page.get("Contents", ())) for page in pages)


def reconcile(workspace: Workspace, shards: int = 1) -> int:
    """Compare as `sync_catalog` does; every object is in the catalogue, so there may be no difference."""
    seen = survey(workspace, run_id="bench", note=True, shards=shards)
    if seen.unexplained or seen.missing or seen.overwritten or seen.doubtful:
        others = len(seen.overwritten) + len(seen.doubtful)
        raise RuntimeError(f"{seen.unexplained} unexplained, {len(seen.missing)} missing, {others} changed")
    return seen.listed.objects


def catalogue(at: Endpoint, path: Path) -> Workspace:
    """Create a store with every object of the shelf."""
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    bucket = shelf.open_prefix(at, PREFIX)
    stored = [stored_object for page in bucket.pages() for stored_object in page]
    split = [stored_object.key.removeprefix(PREFIX).removesuffix(".mp4").split("/") for stored_object in stored]
    with transaction(engine, "bench.fill") as session:
        session.execute(sa.insert(users), [{"id": user, "tier": "free"} for user in {parts[0] for parts in split}])
        session.execute(
            sa.insert(videos),
            [{"id": video, "user_id": user, "generation": 1, "state": VideoState.LIVE} for user, video in split],
        )
        session.execute(
            sa.insert(blobs),
            [
                {
                    "id": number,
                    "video_id": parts[1],
                    "generation": 1,
                    "key": stored_object.key,
                    "state": BlobState.LIVE,
                    "size_bytes": stored_object.size_bytes,
                    "etag": stored_object.etag,
                    "stored_at": stored_object.last_modified,
                }
                for number, (stored_object, parts) in enumerate(zip(stored, split, strict=True), start=1)
            ],
        )
    return Workspace(engine, bucket, "bench")
