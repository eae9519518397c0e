"""A plan is saved as a whole, and applied at most once, in time, by its own flow under its own policy."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import NotFound, PlanRefused
from reelkeeper.model import Action, Counts, Outcome, PlanSummary, Verdict, Video
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.core.leases import acquire, release
from reelkeeper.store.lifecycle.plan_results import recent_plans, shown
from reelkeeper.store.lifecycle.plan_writer import add_items, add_verdicts, begin_plan
from reelkeeper.store.lifecycle.plans import (
    Approved,
    Item,
    approve_plan,
    begin_applying,
    count_failures,
    load_summary,
    planned,
    record_outcomes,
    refuse_plan,
)
from reelkeeper.store.tables import plans, users, verdicts, videos
from tests.marks import marked

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
POLICY: dict[str, Any] = {"retire_below_views": 1, "compress_below_views": None}


def judged(count: int) -> Iterator[Verdict]:
    """Of ten videos, one is retired and two are compressed; the user is the tens digit."""
    for n in range(count):
        video = Video(f"v{n}", f"u{n // 10}", "free", AS_OF, 0, False, 1_000 + n, "h264", None, n + 1, 1)
        action = {0: Action.RETIRE, 1: Action.COMPRESS, 2: Action.COMPRESS}.get(n % 10, Action.KEEP)
        yield Verdict(video, action, "cold" if action is not Action.KEEP else ("held", "too_young")[n % 2])


def ready(engine: sa.Engine, count: int = 20) -> PlanSummary:
    plan_id = begin_plan(engine, "tier_storage", POLICY, AS_OF, "run")
    add_verdicts(
        engine,
        plan_id,
        judged(count),
        lambda verdict: f"{verdict.video.id} is cold",
        lambda verdict: (verdict.video.size_bytes * 3, verdict.video.size_bytes * 2),
    )
    return summed_up(engine, plan_id)


def summed_up(engine: sa.Engine, plan_id: str) -> PlanSummary:
    with reading(engine) as session:
        return load_summary(session, plan_id)


def apply(
    engine: sa.Engine,
    plan_id: str,
    flow: str = "tier_storage",
    policy: dict[str, Any] = POLICY,
    *,
    run_id: str = "run",
) -> None:
    with transaction(engine, "test.apply") as session:
        begin_applying(session, plan_id, flow, policy, run_id)


def test_a_plan_is_summed_up(engine: sa.Engine) -> None:
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(users), [{"id": "u0"}, {"id": "u1"}])
        session.execute(
            sa.insert(videos),
            [{"id": f"v{n}", "user_id": f"u{n // 10}", "state": "live", "generation": 1} for n in range(20)],
        )
    summary = ready(engine)
    assert len(summary.id) == 12
    assert summary == PlanSummary(
        id=summary.id,
        flow="tier_storage",
        as_of=AS_OF,
        population=Counts(20, 20_190),
        retire=Counts(2, 2_010),
        compress=Counts(4, 4_026),
        retire_by_user={"u0": Counts(1, 1_000), "u1": Counts(1, 1_010)},
        live_by_user={"u0": 10, "u1": 10},
        kept={"held": 6, "too_young": 8},
        samples=("v10", "v0"),
    )
    with reading(engine) as session:
        assert load_summary(session, summary.id) == summary


def test_an_empty_plan_is_a_plan(engine: sa.Engine) -> None:
    summary = ready(engine, 0)
    assert (summary.population, summary.retire, summary.kept) == (Counts(), Counts(), {})


def test_its_items_come_largest_first_in_batches_with_reason_and_saving(engine: sa.Engine) -> None:
    plan_id = ready(engine, 100).id
    with reading(engine) as session:
        batches = list(planned(session, plan_id, "retire", batch_size=4))
        compressed = [item for batch in planned(session, plan_id, "compress") for item in batch]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert batches[0][0] == Item(91, "v90", "u9", 1, "retire", "cold", "v90 is cold", 1_090, 3_270, 2_180)
    assert [item.saving_microusd for item in compressed] == [3 * item.size_bytes for item in compressed]


@pytest.mark.long("40,000 videos")
def test_thousands_of_verdicts_are_streamed_into_it(engine: sa.Engine) -> None:
    assert ready(engine, 40_000).retire.objects == 4_000


def test_a_purge_plan_is_made_of_items_some_without_a_video(engine: sa.Engine) -> None:
    plan_id = begin_plan(engine, "purge_retired", {}, AS_OF, "run")
    items = [
        Item(1, "v1", "ada", 1, "purge", "grace_over", "retired 8 days ago", 10, 1),
        Item(2, None, None, 1, "purge", "orphan", "no video", 5, 1),
    ]
    add_items(engine, plan_id, items, lambda: (Counts(100, 1_000), {"in_grace": 98}))
    summary = summed_up(engine, plan_id)
    assert (summary.population, summary.retire, summary.kept) == (Counts(100, 1_000), Counts(2, 15), {"in_grace": 98})
    assert (summary.samples, list(summary.retire_by_user)) == (("v1",), ["ada"])


def test_a_plan_is_applied_once(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    apply(engine, plan_id)
    with pytest.raises(PlanRefused) as refused:
        apply(engine, plan_id, run_id="another")
    assert marked(refused.value) == snapshot(
        "plan ID was already applied on DAY TIME UTC. Nothing was changed. Make a new plan"
    )


def test_a_run_that_was_handed_over_goes_on_with_its_plan(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    apply(engine, plan_id)
    with transaction(engine, "test.record") as session:
        record_outcomes(session, plan_id, [Outcome("v1", "compressed", "", 1_001, 400)])
    apply(engine, plan_id)
    with reading(engine) as session:
        outcome = sa.select(verdicts.c.outcome).where(verdicts.c.plan_id == plan_id, verdicts.c.video_id == "v1")
        assert session.execute(outcome).scalar() == "compressed"


def test_an_applied_plan_with_items_left_is_under_way_or_stopped(engine: sa.Engine) -> None:
    first, second = ready(engine).id, ready(engine).id

    def states() -> list[str]:
        with reading(engine) as session:
            lines = {line.id: line.state for line in recent_plans(session, limit=9)}
            assert shown(session, first) == (lines[first], "run")
        return [lines[first], lines[second]]

    assert states() == ["ready", "ready"]
    with reading(engine) as session:
        nothing = begin_plan(engine, "expire_videos", POLICY, AS_OF, "run")
        sums = {line.id: (line.items, line.size_bytes) for line in recent_plans(session, limit=9)}
    assert sums == {first: (6, 6_036), second: (6, 6_036), nothing: (0, 0)}
    held = acquire(engine, ["flow/tier_storage"], "the run")
    apply(engine, first)
    add_verdicts(engine, nothing, iter(()), lambda _: "", lambda _: (0, 0))
    apply(engine, nothing, "expire_videos")  # later
    assert states() == ["under way", "ready"]
    release(engine, held)  # as after a kill, once it has expired
    assert states() == ["stopped", "ready"]
    helper = acquire(engine, [f"plan/{first}"], "a helper")
    assert states() == ["under way", "ready"]
    release(engine, helper)
    acquire(engine, ["flow/tier_storage"], "the next run")
    apply(engine, second)
    assert states() == ["stopped", "under way"]
    with transaction(engine, "test") as session:
        record_outcomes(session, second, [Outcome(f"v{n}", "skipped", "") for n in range(20)])
    assert states() == ["stopped", "applied"]


def test_one_of_many_concurrent_runs_applies_a_plan(engine: sa.Engine) -> None:
    plan_id, applied = ready(engine).id, []

    def attempt(run_id: str) -> None:
        try:
            apply(engine, plan_id, run_id=run_id)
        except PlanRefused:
            return
        applied.append(plan_id)

    runs = [threading.Thread(target=attempt, args=(f"run {n}",)) for n in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert applied == [plan_id]


def test_an_old_plan_is_refused_by_the_databases_clock(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with transaction(engine, "test.age") as session:
        session.execute(sa.update(plans).values(created_at=Clock(-24.5 * 3600)))
    with pytest.raises(PlanRefused) as refused:
        apply(engine, plan_id)
    assert marked(refused.value) == snapshot("plan ID is 24.5 h old, limit 24 h. Nothing was changed. Make a new plan")


def test_another_policy_is_refused_and_named(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with pytest.raises(PlanRefused) as refused:
        apply(engine, plan_id, policy={**POLICY, "retire_below_views": 9})
    assert marked(refused.value) == snapshot("""\
plan ID was made under another policy: retire_below_views=1 then, 9 now. Nothing was changed. As it was made: reelkeeper run tier_storage --apply --plan ID --param retire_below_views=1
  or make a new plan\
""")
    apply(engine, plan_id, policy=dict(reversed(POLICY.items())))


def test_a_plan_that_the_guard_refused_may_be_applied_with_its_override_once(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with transaction(engine, "test.refuse") as session:
        refuse_plan(session, plan_id, "501 objects, limit 500")
    apply(engine, plan_id)
    with pytest.raises(PlanRefused) as refused:
        apply(engine, plan_id, run_id="another")
    assert marked(refused.value) == snapshot(
        "plan ID was already applied on DAY TIME UTC. Nothing was changed. Make a new plan"
    )


def test_another_flow_an_unfinished_and_an_unknown_plan_are_refused(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with pytest.raises(PlanRefused) as refused:
        apply(engine, plan_id, "expire_videos")
    assert marked(refused.value) == snapshot(
        "plan ID was made by tier_storage, not by expire_videos. Nothing was changed. Make a new plan"
    )
    with pytest.raises(PlanRefused) as refused:
        apply(engine, begin_plan(engine, "tier_storage", POLICY, AS_OF, "run"))
    assert marked(refused.value) == snapshot("plan ID is drawing, not ready. Nothing was changed. Make a new plan")
    with pytest.raises(NotFound):
        apply(engine, "0" * 12)


def test_a_plan_is_drawn_once(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with pytest.raises(PlanRefused) as refused:
        add_items(engine, plan_id, [], lambda: (Counts(), {}))
    assert marked(refused.value) == snapshot("plan ID is ready, and cannot be extended; make a new plan")


def test_outcomes_are_recorded_with_their_items(engine: sa.Engine) -> None:
    plan_id = ready(engine).id
    with transaction(engine, "test.outcomes") as session:
        record_outcomes(session, plan_id, [])
        record_outcomes(
            session,
            plan_id,
            [
                Outcome("v0", "retired", "0 views", 1_000, 0, blob_id=1),
                Outcome("v1", "refused", "only 3 % smaller", 1_001, 1_001),
            ],
        )
    with reading(engine) as session:
        found = session.execute(
            sa.select(verdicts.c.video_id, verdicts.c.outcome, verdicts.c.outcome_reason, verdicts.c.after_bytes)
            .where(verdicts.c.outcome.is_not(None))
            .order_by(verdicts.c.blob_id)
        )
        assert [tuple(row) for row in found] == [
            ("v0", "retired", "0 views", 0),
            ("v1", "refused", snapshot("only 3 % smaller"), 1_001),
        ]


def test_the_plans_in_which_a_blob_failed_by_some_errors_are_counted(engine: sa.Engine) -> None:
    for why in ("MediaTimeout: ffmpeg ran too long", "MediaTimeout: once more", "StorageError: 503"):
        plan_id = ready(engine).id
        with transaction(engine, "test") as session:
            record_outcomes(session, plan_id, [Outcome("v1", "failed", why, 1, 1, 1), Outcome("v2", "refused", why)])
    with reading(engine) as session:
        assert [count_failures(session, blob_id, ("MediaTimeout",)) for blob_id in (1, 2)] == [2, 0]
        assert count_failures(session, 1, ("Media", "StorageError")) == 1


def refused(engine: sa.Engine, widening: dict[str, float] | None = None) -> str:
    plan_id = ready(engine).id
    with transaction(engine, "test.refuse") as session:
        refuse_plan(session, plan_id, "refused: too many", {"max_objects": 2} if widening is None else widening)
    return plan_id


def approve(engine: sa.Engine, plan_id: str) -> Approved:
    with transaction(engine, "test.approve") as session:
        return approve_plan(session, plan_id, author="ops", reason="they are meant to go")


def test_a_refused_plan_is_approved_once_with_the_limits_that_it_was_refused_by(engine: sa.Engine) -> None:
    plan_id, other = refused(engine), refused(engine, {"max_objects": 9})
    assert approve(engine, plan_id)._replace(at=AS_OF) == Approved(
        plan_id, "tier_storage", AS_OF, "refused: too many", {"max_objects": 2}
    )
    with reading(engine) as session:
        assert load_summary(session, plan_id).approved == {"max_objects": 2}
        assert load_summary(session, other).approved == {}
    with pytest.raises(PlanRefused) as plan_refused:
        approve(engine, plan_id)
    assert marked(plan_refused.value) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it was approved by ops on DAY TIME UTC"
    )
    apply(engine, plan_id)
    with pytest.raises(PlanRefused) as plan_refused:
        approve(engine, plan_id)
    assert marked(plan_refused.value) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it is applied, and was not refused"
    )


def test_a_plan_refused_again_needs_another_approval(engine: sa.Engine) -> None:
    plan_id = refused(engine)
    approve(engine, plan_id)
    with transaction(engine, "test.refuse") as session:
        refuse_plan(session, plan_id, "refused: more", {"max_objects": 3})
    with reading(engine) as session:
        assert load_summary(session, plan_id).approved == {}
    assert approve(engine, plan_id).widening == {"max_objects": 3}


def test_a_plan_not_refused_impossible_or_old_is_not_approved(engine: sa.Engine) -> None:
    with pytest.raises(PlanRefused) as plan_refused:
        approve(engine, ready(engine).id)
    assert marked(plan_refused.value) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it is ready, and was not refused"
    )
    with pytest.raises(PlanRefused) as plan_refused:
        approve(engine, refused(engine, {}))
    assert marked(plan_refused.value) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it has impossible figures. Make a new plan after sync_catalog"
    )
    with pytest.raises(NotFound):
        approve(engine, "no such plan")
    plan_id = refused(engine)
    with transaction(engine, "test.age") as session:
        session.execute(sa.update(plans).values(created_at=Clock(-25 * 3600)))
    with pytest.raises(PlanRefused) as plan_refused:
        approve(engine, plan_id)
    assert marked(plan_refused.value) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it is more than 24 h old"
    )


def test_one_of_many_concurrent_approvals_succeeds(engine: sa.Engine) -> None:
    plan_id, done = refused(engine), []

    def click() -> None:
        with contextlib.suppress(PlanRefused):
            done.append(approve(engine, plan_id))

    people = [threading.Thread(target=click) for _ in range(8)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(done) == 1
