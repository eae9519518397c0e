"""The child process of the webhooks' kill tests: videos change, and events are sent."""

import os

import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.operations.alerts import events, webhooks
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.tables import videos

VIDEOS = ("v1", "v2")


def child(store_url: str, spec: str, changes: int) -> None:
    """Change videos, each in one transaction with its event, and deliver, with `spec` armed."""
    engine = open_engine(store_url)
    failpoints.arm(spec)
    for number in range(changes):
        video_id = VIDEOS[number % len(VIDEOS)]
        with transaction(engine, "change") as session:
            of_it = videos.c.id == video_id
            session.execute(sa.update(videos).where(of_it).values(generation=videos.c.generation + 1))
            events.record(session, [Event("swap", "run", video_id, detail={"before_bytes": 2})])
    webhooks.deliver(engine, allow_private=True, seconds=5, timeout_seconds=2)
    os._exit(0)  # what a forked child inherits is not its own to clean up
