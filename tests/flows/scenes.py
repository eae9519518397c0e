"""A small deployment that a flow's test arranges, with a check for unintended changes."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from prefect.client.orchestration import SyncPrefectClient

from deployments.bootstrap import BLOCK
from reelkeeper.model import VideoState
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import (
    audit_events,
    blobs,
    deployment,
    operations,
    plans,
    users,
    verdicts,
    videos,
    view_days,
)
from tasks.runs import recorded
from tests.doubles.requests import Request
from tests.faults.world import World
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

KEPT_TABLES = (audit_events, blobs, deployment, operations, users, videos)


def recorded_days() -> list[dict[str, date]]:
    """Return the rows that mark the views of the last days as complete."""
    today = datetime.now(UTC).date()
    return [{"day": today - timedelta(days=n)} for n in range(1, 40)]


class Scene:
    """Videos of the pro user "ann", none of them viewed, on days that are all recorded.

    They are compressed whatever it costs: so small, none of them would pay for its requests.
    """

    def __init__(self, world: World) -> None:
        self.world, self.double, self.engine = world, world.double, world.workspace.engine
        put_in_force(self.engine, recipe=AT_ANY_PRICE)
        with transaction(self.engine, "test") as session:
            session.execute(sa.update(users).values(tier="pro"))
            session.execute(sa.insert(view_days), recorded_days())

    def video(self, video_id: str, *, age_days: float, **options: Any) -> int:  # noqa: ANN401  as World.video takes them
        """Add a live video of that age; return its blob's id."""
        blob_id = self.world.video(video_id, **options)
        with transaction(self.engine, "test") as session:
            created_at = datetime.now(UTC) - timedelta(days=age_days)
            session.execute(sa.update(videos).where(videos.c.id == video_id).values(created_at=created_at))
        return blob_id

    def lose_rows(self, prefix: str) -> None:
        """Hide the rows of these live videos, as a wrong restore of the store would."""
        with transaction(self.engine, "test") as session:
            session.execute(sa.update(videos).where(videos.c.id.startswith(prefix)).values(state=VideoState.LOST))

    def when_a_video_is_fetched(self, action: Callable[[], object]) -> None:
        """Call `action` as the first request for a video's bytes arrives; those before it ask who the bucket is."""
        faults, identity = self.double.faults, self.world.workspace.bucket.identity_key

        def look(request: Request) -> None:
            if request.key == identity:
                faults.before("GetObject", look)
            else:
                action()

        faults.before("GetObject", look)

    def when_its_identity_was_read(self, action: Callable[[], object]) -> None:
        """Call `action` once a run has opened the bucket, which asks twice who it is."""
        faults = self.double.faults
        faults.after("GetObject", lambda _: faults.after("GetObject", lambda _: action()))

    def states(self) -> dict[str, str]:
        """Say which state each video is in."""
        with reading(self.engine) as session:
            return {row.id: row.state for row in session.execute(sa.select(videos.c.id, videos.c.state))}

    def everything(self) -> tuple[object, ...]:
        """Dump the rows and objects that a run must not change by itself."""
        with reading(self.engine) as session:
            rows = tuple(tuple(session.execute(sa.select(table)).all()) for table in KEPT_TABLES)
        stored = sorted(
            (stored_object.key, stored_object.etag)
            for page in self.world.workspace.bucket.pages()
            for stored_object in page
        )
        return *rows, tuple(stored)

    def outcomes(self, plan_id: str) -> dict[str | None, str | None]:
        """Return the outcome of each item of a plan, by its video."""
        with reading(self.engine) as session:
            chosen = sa.select(verdicts.c.video_id, verdicts.c.outcome).where(verdicts.c.plan_id == plan_id)
            return {row.video_id: row.outcome for row in session.execute(chosen)}

    def last_plan(self) -> sa.Row[Any]:
        """Return the plan that was drawn last."""
        with reading(self.engine) as session:
            return session.execute(sa.select(plans).order_by(plans.c.created_at.desc()).limit(1)).one()


def forget_record(client: SyncPrefectClient) -> None:
    """Delete what is recorded for Reelkeeper at the server, which the tests of a session share."""
    for name in recorded(client):
        client.delete_variable_by_name(name)


def clear(client: SyncPrefectClient) -> None:
    """Delete all that `bootstrap` and `deploy` make at the server, which the tests of a session share."""
    for pool in client.read_work_pools():
        client.delete_work_pool(pool.name)
    for limit in client.read_global_concurrency_limits():
        client.delete_global_concurrency_limit_by_name(limit.name)
    for automation in client.request("POST", "/automations/filter", json={}).json():
        client.request("DELETE", "/automations/{id}", path_params={"id": automation["id"]})
    for made in client.read_deployments(limit=200):
        client.request("DELETE", "/deployments/{id}", path_params={"id": made.id})
    forget_record(client)
    for block in client.read_block_documents():
        if block.name == BLOCK:
            client.delete_block_document(block.id)
