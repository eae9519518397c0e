"""A purge plan has the blobs whose grace is over, by rule, and counts the rest; on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model import Claimed, Counts, Done, Grace, Outcome, PlannedRule, PlanSummary
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.plan_results import (
    by_outcome,
    by_rule,
    failures,
    last_population,
    plan_items,
    retired_in_24h,
)
from reelkeeper.store.lifecycle.plan_writer import begin_plan
from reelkeeper.store.lifecycle.plans import planned, record_outcomes
from reelkeeper.store.lifecycle.purge_plan import add_due
from reelkeeper.store.tables import blobs, holds, plans, users, videos
from reelkeeper.store.videos.conditions import CLAIM_TIMEOUT

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)

Blob = Callable[..., int]


@pytest.fixture
def blob(engine: sa.Engine) -> Blob:
    """A factory of blobs whose grace has been over for `days`, in the catalogue of "ann"."""
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann"))

    def add(
        video_id: str | None, state: str = "retired", *, days: float = 1, video: str = "retired", current: bool = True
    ) -> int:
        with transaction(engine, "test") as session:
            known = session.execute(sa.select(videos.c.id).where(videos.c.id == video_id)).scalar()
            if video_id is not None and not known:
                values: dict[str, Any] = {"id": video_id, "user_id": "ann", "state": video, "generation": 1}
                session.execute(sa.insert(videos).values(**values, created_at=LONG_AGO))
            blob_id: int = session.execute(
                sa.insert(blobs)
                .values(
                    video_id=video_id,
                    generation=1,
                    key=f"{video_id}/{state}/{days}/{current}",
                    state=state,
                    size_bytes=2 * 10**9,
                    purge_after=NOW - timedelta(days=days) if state == "retired" else None,
                    retire_reason="it was cold",
                )
                .returning(blobs.c.id)
            ).scalar_one()
            if video_id is not None and current:
                session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id))
        return blob_id

    return add


def draw(engine: sa.Engine, max_videos: int = 500, as_of: datetime = NOW) -> PlanSummary:
    plan_id = begin_plan(engine, "purge_retired", {}, as_of, "run")
    return add_due(
        engine, plan_id, as_of, grace=Grace(), service_keys=True, max_videos=max_videos, microusd_per_gb=15_000
    )


def rules(engine: sa.Engine, plan: PlanSummary) -> dict[str, int]:
    with reading(engine) as session:
        return {rule.rule: rule.objects for rule in by_rule(session, plan.id)}


def test_each_rule_is_named_with_the_reason_and_the_saving(engine: sa.Engine, blob: Blob) -> None:
    gone = blob("gone")
    blob("live", "live", video="live")
    replaced = blob("live", current=False)
    orphan = blob(None)
    abandoned = blob("never", video="gone", current=False)
    unfinished = blob("begun", "deleting")
    plan = draw(engine)
    with reading(engine) as session:
        items = {item.blob_id: item for batch in planned(session, plan.id, "purge") for item in batch}
    assert {blob_id: item.rule for blob_id, item in items.items()} == {
        gone: "grace_over",
        replaced: "replaced",
        orphan: "orphan",
        abandoned: "orphan",
        unfinished: "unfinished",
    }
    assert items[gone].reason == snapshot("its grace is over; retired because: it was cold")
    assert {item.saving_microusd for item in items.values()} == {30_000}
    assert (plan.population, plan.retire) == (Counts(1, 2 * 10**9), Counts(5, 10**10))


def test_kept_blobs_are_counted_by_reason(engine: sa.Engine, blob: Blob) -> None:
    blob("young", days=-1)
    blob("held")
    blob("viewed")
    with transaction(engine, "test") as session:
        session.execute(
            sa.insert(holds).values(
                id="h", scope="video", subject="held", reason="legal", author="ops", created_at=LONG_AGO
            )
        )
        session.execute(sa.update(videos).where(videos.c.id == "viewed").values(last_viewed_at=NOW - timedelta(days=2)))
    plan = draw(engine)
    assert (plan.retire.objects, plan.kept) == (0, {"in_grace": 1, "spoken_for": 2})


def test_what_another_run_has_claimed_is_counted_with_its_run_and_its_end(engine: sa.Engine, blob: Blob) -> None:
    first, second, _ = blob("v1", "deleting"), blob("v2", "deleting"), blob("v3", days=-1)
    at = datetime.now(UTC)  # NOW is when the run of tests began, and a claim ends after 25 minutes
    with transaction(engine, "test") as session:
        claimed = sa.update(blobs).where(blobs.c.id.in_([first, second]))
        session.execute(claimed.values(run_id="killed", claimed_at=at, purge_after=at + timedelta(days=1)))
    plan = draw(engine)
    assert (plan.retire.objects, plan.kept) == (0, {"in_grace": 1, "claimed": 2})
    assert plan.claimed == (Claimed("killed", 2, 4 * 10**9, plan.claimed[0].until),)
    assert abs(plan.claimed[0].until - at - CLAIM_TIMEOUT) < timedelta(milliseconds=2)  # SQLite's clock


def test_the_videos_that_waited_longest_go_first_and_replaced_blobs_are_not_counted(
    engine: sa.Engine, blob: Blob
) -> None:
    for days in (1, 3, 2):
        blob(f"v{days}", days=days)
    blob("live", "live", video="live")
    blob("live", days=4, current=False)
    plan = draw(engine, max_videos=2)
    with reading(engine) as session:
        chosen = {item.video_id for batch in planned(session, plan.id, "purge") for item in batch}
    assert chosen == {"v3", "v2", "live"}
    assert plan.kept == {"left_to_next_run": 1}
    assert rules(engine, draw(engine, max_videos=0)) == {"replaced": 1}


@pytest.mark.parametrize(("days_on", "due"), [(-2, 0), (0, 1), (400, 1)])
def test_as_of_may_look_back_and_never_ahead(engine: sa.Engine, blob: Blob, days_on: int, due: int) -> None:
    blob("past", days=1)
    blob("young", days=-1)
    assert draw(engine, as_of=NOW + timedelta(days=days_on)).retire.objects == due


def test_results_are_counted_by_outcome(engine: sa.Engine, blob: Blob) -> None:
    ids = [blob(f"v{number}") for number in range(4)]
    plan = draw(engine)
    size = 2 * 10**9
    with transaction(engine, "test") as session:
        outcomes = [
            Outcome("v0", "purged", "", size, 0, ids[0]),
            Outcome("v1", "purged", "", size, 0, ids[1]),
            Outcome("v2", "failed", "AccessDenied", size, size, ids[2]),
        ]
        record_outcomes(session, plan.id, outcomes)
    with reading(engine) as session:
        assert by_outcome(session, plan.id) == [
            Done("failed", 1, size, size),
            Done("not_done", 1, size, size),
            Done("purged", 2, 2 * size, 0),
        ]
        assert failures(session, plan.id, 10) == [Outcome("v2", "failed", "AccessDenied", size, size, ids[2])]
        assert by_rule(session, plan.id) == [PlannedRule("purge", "grace_over", 4, 4 * size, 4 * 30_000)]
        assert len(plan_items(session, plan.id, 3)) == 3


def test_the_guard_gets_the_last_applied_plans_population_and_todays_retirements(engine: sa.Engine, blob: Blob) -> None:
    blob("live", "live", video="live")
    blob("gone")
    with transaction(engine, "test") as session:
        session.execute(
            sa.update(videos).where(videos.c.id == "gone").values(retired_at=datetime.now(UTC) - timedelta(hours=23))
        )
    with reading(engine) as session:
        assert last_population(session) is None
        assert retired_in_24h(session) == 1
    plan = draw(engine)
    with transaction(engine, "test") as session:
        session.execute(sa.update(plans).values(state="applied", population=9))
        record_outcomes(session, plan.id, [Outcome("gone", "retired", "", 0, 0)])
        session.execute(sa.update(videos).values(retired_at=datetime.now(UTC) - timedelta(hours=25)))
    draw(engine)
    with reading(engine) as session:
        assert last_population(session) == 8
        assert retired_in_24h(session) == 0
