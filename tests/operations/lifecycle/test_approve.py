"""A refused plan is reported, and carried out once after approval, up to the reported figures."""

from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import GuardRefused, PlanRefused
from reelkeeper.operations.lifecycle import plans
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.store import Engine
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.lifecycle.plan_writer import begin_plan
from reelkeeper.store.lifecycle.plans import Approved, refuse_plan
from reelkeeper.store.tables import videos
from tests.marks import marked
from tests.operations.refused_plans import AS_OF, TIGHT, carry_out, planned, refuse, stock
from tests.policies import put_in_force
from tests.tiers import tiers


@pytest.fixture(autouse=True)
def catalogue(engine: Engine) -> None:
    stock(engine)


def firing(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        return [(alert.rule, alert.period) for alert in alerts.listed(session, everything=False, limit=9)]


def told(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return [message.title for message in outbox.listed(session, everything=True, limit=99)]


def test_a_refusal_is_reported_with_its_figures_and_how_to_approve_it(engine: Engine) -> None:
    plan_id = planned(engine)
    said = refuse(engine, plan_id)
    assert marked(said, PLAN=plan_id) == snapshot("""\
refused, and nothing was changed: expire_videos selected 8 of 8 live videos, 8.0 kB
  max_objects: 8 videos, limit 5
  for example: v0, v1, v2, v3, v4
  plan: PLAN
  override: reelkeeper run expire_videos --apply --plan PLAN --param limits.max_objects=8
  or approve this plan for one run: reelkeeper approve PLAN --reason WHY\
""")
    assert firing(engine) == [("plan_refused", plan_id)]
    assert told(engine) == [snapshot("expire_videos was refused: 8 of 8 live videos, 8.0 kB")]
    assert plans.refusal(engine, plan_id) == said


def test_each_refused_plan_is_reported_and_the_earlier_alert_closed(engine: Engine) -> None:
    first, second = planned(engine), planned(engine, 9)
    refuse(engine, first)
    refuse(engine, second)
    assert firing(engine) == [("plan_refused", second)]
    assert len(told(engine)) == 2
    carry_out(engine, planned(engine, 3))
    assert firing(engine) == []


def test_an_approved_plan_is_carried_out_once_and_no_other_by_its_approval(engine: Engine) -> None:
    plan_id, other = planned(engine), planned(engine)
    refuse(engine, plan_id)
    refuse(engine, other)
    approved = plans.approve(engine, plan_id, author="ops", reason="they are meant to go")
    assert (approved.flow, approved.widening) == ("expire_videos", {"max_objects": 8})
    refuse(engine, other)
    refuse(engine, planned(engine))
    carry_out(engine, plan_id)
    with pytest.raises(PlanRefused) as refused:
        carry_out(engine, plan_id)
    assert marked(refused.value) == snapshot(
        "plan ID was already applied on DAY TIME UTC. Nothing was changed. Make a new plan"
    )


def test_an_approval_is_posted_and_audited(engine: Engine) -> None:
    plan_id = planned(engine)
    refuse(engine, plan_id)
    plans.approve(engine, plan_id, author="ops", reason="meant to go")
    assert told(engine) == snapshot(
        ["ops approved a refused plan of expire_videos", "expire_videos was refused: 8 of 8 live videos, 8.0 kB"]
    )
    with reading(engine) as session:
        (recorded,) = audit.events(session, event="approve")
        detail = {"plan": plan_id, "flow": "expire_videos", "by": "ops", "limits": {"max_objects": 8}}
        assert {name: recorded.event.detail[name] for name in detail} == detail
        assert recorded.event.detail["why"] == "meant to go"
        assert audit.verify(session) >= 1


def test_a_plan_that_grew_after_its_approval_is_refused_again_and_the_approval_ends(engine: Engine) -> None:
    plan_id = planned(engine)
    refuse(engine, plan_id)
    plans.approve(engine, plan_id, author="ops", reason="they are meant to go")
    with pytest.raises(GuardRefused, match="max_bytes"):
        carry_out(engine, plan_id, TIGHT.model_copy(update={"max_bytes": 1_000}))
    refuse(engine, plan_id)


@pytest.mark.parametrize(("gone", "is_refused"), [(range(4), False), (range(1, 5), True)])
def test_what_another_plan_has_retired_meanwhile_is_counted_once(
    engine: Engine, gone: range, *, is_refused: bool
) -> None:
    limits = BlastRadius(max_percent=100, max_user_percent=20, max_percent_in_24h=20)
    plan_id = planned(engine, 4, kept=16)
    with transaction(engine, "test") as session:
        retired = sa.update(videos).where(videos.c.id.in_([f"v{number}" for number in gone]))
        session.execute(retired.values(state="retired", retired_at=Clock()))
    if is_refused:
        with pytest.raises(GuardRefused) as refused:
            carry_out(engine, plan_id, limits)
        assert refused.value.widening == {"max_user_percent": 21.06, "max_percent_in_24h": 23.81}  # 4 of 19, 5 of 21
    else:
        carry_out(engine, plan_id, limits)


def test_an_approved_run_is_given_the_exceptions_of_its_plan_and_not_policies_that_were_in_force(
    engine: Engine,
) -> None:
    def approved(under: dict[str, Any]) -> Approved:
        plan_id = begin_plan(engine, "purge_retired", under, AS_OF, "run", {"max_objects": 10**6})
        with transaction(engine, "test") as session:
            refuse_plan(session, plan_id, "refused", {"min_population_percent": 50})
        put_in_force(engine, lifecycle=LifecyclePolicy(grace_days=9), tiers=tiers(pro={"retention_days": 400}))
        return plans.approve(engine, plan_id, author="ops", reason="meant")

    purge = {"grace_days": 7, "grace_days_service_keys": 30, "max_objects": 9}
    assert approved(purge).given == {"grace_days_service_keys": 30, "limits": {"max_objects": 9}}
    assert approved(purge).given == {"grace_days": 7, "grace_days_service_keys": 30, "limits": {"max_objects": 9}}
    chosen = terms_in(
        Policies(lifecycle=LifecyclePolicy(grace_days=9, retire_below_views=None)), TERMS["expire_videos"]
    )
    found = approved(chosen)
    assert found.given == {
        "policy": {"retire_below_views": "never"},
        "tiers": {"pro": {"retention_days": 365}},
    }
    assert found.command.endswith(" --param policy.retire_below_views=never --param tiers.pro.retention_days=365")
