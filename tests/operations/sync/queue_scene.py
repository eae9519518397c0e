"""The video service with its bucket, and R2's event queue."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from reelkeeper.adapters.cloudflare.api import Api
from reelkeeper.adapters.cloudflare.queues import Queue
from reelkeeper.model import StoredObject
from reelkeeper.operations.core.lease import alone
from reelkeeper.operations.sync.following import LEASE, Follower
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import blobs, scans, videos
from tests.buckets import BUCKET
from tests.doubles.cloudflare import ACCOUNT
from tests.doubles.queue import QUEUE, TOKEN, QueueDouble, event
from tests.faults.world import World


@dataclass
class Service:
    """Stores and deletes at keys of its own; R2's event of each waits in the queue."""

    world: World
    double: QueueDouble

    def key(self, name: str) -> str:
        return self.world.address.prefix + name

    def put(self, name: str, data: bytes = b"a video", *, tell: bool = True) -> str:
        key = self.key(name)
        self.world.double.client.put_object(Bucket=BUCKET, Key=key, Body=data)
        if tell:
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.double.put(event("PutObject", BUCKET, key, size=len(data), etag=etag))
        return key

    def delete(self, name: str, *, tell: bool = True, action: str = "DeleteObject") -> str:
        key = self.key(name)
        self.world.double.client.delete_object(Bucket=BUCKET, Key=key)
        if tell:
            self.double.put(event(action, BUCKET, key))
        return key

    def stored(self) -> dict[str, StoredObject]:
        return {stored.key: stored for page in self.world.workspace.bucket.pages() for stored in page}

    def listed(self) -> None:
        """Let a listing have ended, as before events are followed."""
        with transaction(self.world.workspace.engine, "test") as session:
            at = now(session)
            session.execute(sa.insert(scans).values(id="first", run_id="run", started_at=at, finished_at=at))

    def queue(self) -> Queue:
        return connect(self.double)

    def follow(self) -> Counter[str]:
        """Follow until the queue gives nothing more; return what became of the messages."""
        with alone(self.world.workspace.engine, LEASE) as held:
            follower = Follower(self.world.workspace, self.queue(), held)
            before = Counter(follower.counts)
            while follower.turn():
                pass
            follower.write()
            return Counter(follower.counts) - before

    def state(self, name: str) -> tuple[str, str]:
        """Return the states of the video that stands on a key's newest row, and of that row."""
        newest = sa.select(sa.func.max(blobs.c.id)).where(blobs.c.key == self.key(name)).scalar_subquery()
        with reading(self.world.workspace.engine) as session:
            row = session.execute(
                sa.select(videos.c.state, blobs.c.state)
                .join(blobs, blobs.c.video_id == videos.c.id)
                .where(blobs.c.id == newest)
            ).one()
        return str(row[0]), str(row[1])

    def catalogue(self) -> dict[str, str | None]:
        """Return the key and ETag of each live video's bytes."""
        with reading(self.world.workspace.engine) as session:
            live = sa.select(blobs.c.key, blobs.c.etag).join(videos, videos.c.blob_id == blobs.c.id)
            rows = session.execute(live.where(videos.c.state == "live", blobs.c.state == "live")).all()
            return {row.key: row.etag for row in rows}


def connect(double: QueueDouble) -> Queue:
    """Return the client of a queue, which waits for nothing."""
    return Queue(Api(double.url, ACCOUNT, TOKEN, has_limit=False, sleep=lambda _: None), QUEUE)
