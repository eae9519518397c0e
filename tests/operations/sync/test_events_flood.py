"""Many events, some repeated, some lost, in any order: catalogue and bucket agree, as a listing proves."""

import hashlib
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import Grace
from reelkeeper.operations.core.lease import LeaseManager, alone
from reelkeeper.operations.core.workspace import Workspace, join
from reelkeeper.operations.health import accounts
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.following import LEASE, Follower
from reelkeeper.operations.sync.survey import confirm_missing, survey
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import blobs, scans, videos
from tests.buckets import BUCKET, bare_boto3
from tests.doubles.queue import QueueDouble, event
from tests.operations.sync.queue_scene import connect

_ROUNDS = 5


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(3_000, marks=pytest.mark.long),
        pytest.param(100_000, marks=pytest.mark.soak),
    ],
)
def test_the_catalogue_is_what_the_bucket_is(
    engine: sa.Engine, endpoint: Endpoint, queue_of_session: QueueDouble, events: int
) -> None:
    queue_of_session.reset()
    place = endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key
    workspace = join(engine, r2.connect(*place, BUCKET, f"{secrets.token_hex(6)}/videos/"), keeps_contract=True)
    flood = _Flood(workspace, queue_of_session, bare_boto3(endpoint), random.Random(20261127), events)
    with transaction(engine, "test") as session:
        at = now(session)
        session.execute(sa.insert(scans).values(id="first", run_id="run", started_at=at, finished_at=at))
    seconds = 0.0
    with alone(engine, LEASE) as held:
        follower = Follower(workspace, connect(queue_of_session), held)
        for _ in range(_ROUNDS):
            flood.rise()
            began = time.monotonic()
            while follower.turn():
                pass
            seconds += time.monotonic() - began
    rate = flood.sent / seconds
    print(f"\nflood: {flood.sent:,} messages, {rate:,.0f} a second")  # noqa: T201  the figure that this is run for
    stored, known = flood.stored(), _catalogue(workspace)
    differ = {key for key in stored.keys() | known.keys() if stored.get(key) != known.get(key)}
    assert flood.sent >= events
    assert differ <= flood.untold
    assert differ  # some were never told
    _list(workspace)
    assert _catalogue(workspace) == stored
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        audit.verify(session)


class _Flood:
    """Stores, overwrites and deletes in rounds; of its events a half more come twice, and one of a hundred never."""

    def __init__(
        self,
        workspace: Workspace,
        double: QueueDouble,
        client: Any,  # noqa: ANN401  untyped, as boto3 has it
        chance: random.Random,
        events: int,
    ) -> None:
        self.sent, self.untold = 0, set[str]()
        self._workspace, self._double, self._client, self._chance = workspace, double, client, chance
        self._names = [f"user{number % 97}/v{number}.mp4" for number in range(events // 10)]
        self._there = set[str]()
        self._changes = events * 7 // 10 // _ROUNDS

    def rise(self) -> None:
        """Change many objects, no key twice at the same time, and send their events in any order."""
        changes = [self._chance.choice(self._names) for _ in range(self._changes)]
        told = list[dict[str, Any]]()
        for start in range(0, len(changes), 200):
            some = dict.fromkeys(changes[start : start + 200])
            acts = [
                (name, name in self._there and self._chance.random() < 0.02, self._chance.randbytes(12))
                for name in some
            ]
            with ThreadPoolExecutor(8) as pool:
                told += list(pool.map(lambda act: self._act(*act), acts))
        for body in told:
            if self._chance.random() < 0.01:
                self.untold.add(body["object"]["key"])
            else:
                self._double.put(body)
        while len(self._double.messages) < self._changes * 10 // 7:
            self._double.put(self._chance.choice(told))
        self.sent += len(self._double.messages)
        self._double.disorder(self._chance)

    def stored(self) -> dict[str, str]:
        return {stored.key: stored.etag for page in self._workspace.bucket.pages() for stored in page}

    def _is_deleted(self, name: str) -> bool:
        return name in self._there and self._chance.random() < 0.02

    def _act(self, name: str, deletes: bool, data: bytes) -> dict[str, Any]:
        key = self._workspace.bucket.prefix + name
        if deletes:
            self._client.delete_object(Bucket=BUCKET, Key=key)
            self._there.discard(name)
            return event("DeleteObject", BUCKET, key)
        self._client.put_object(Bucket=BUCKET, Key=key, Body=data)
        self._there.add(name)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return event("PutObject", BUCKET, key, size=len(data), etag=etag)


def _catalogue(workspace: Workspace) -> dict[str, str]:
    live = sa.select(blobs.c.key, blobs.c.etag).join(videos, videos.c.blob_id == blobs.c.id)
    with reading(workspace.engine) as session:
        rows = session.execute(live.where(videos.c.state == "live", blobs.c.state == "live"))
        return {row.key: row.etag for row in rows}


def _list(workspace: Workspace) -> None:
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take(["test"])
        found = survey(workspace, run_id="run", note=True)
        confirm_missing(workspace, found)
        adoption.judge(workspace, found.scan_id, AdoptionLimits())
        orphans.adopt(workspace, found, lease=lease, run_id="run")
        sync.lose(workspace, found, lease=lease, run_id="run")
        sync.mend(workspace, found, lease=lease, run_id="run", grace=Grace())
        sync.finish(workspace, found, "good")
