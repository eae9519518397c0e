"""One document, tried on paper before it is in force: its effect, its limits, two people at once, and the way back."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.errors import Frozen, GuardRefused, PlanRefused, PolicyRefused, SchemaError
from reelkeeper.model.requests import Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.policies import at, current
from reelkeeper.operations.core.policy_document import read, write
from reelkeeper.operations.core.policy_import import collect
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.lifecycle.policies import apply, effect_of
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import deployment, jobs, policy_versions, users, videos
from tests.faults.world import World
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import DOLLAR, balances, make_user
from tests.policies import different, put_in_force

SHORTER = DEFAULTS.overridden(lifecycle=LifecyclePolicy(retention_free_days=7))


@pytest.fixture
def aged(world: World) -> World:
    """Ten videos of a free user, 1 to 10 days old, and nobody knows their views."""
    for number in range(10):
        world.video(f"v{number}")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(users).values(tier="free"))
        for number in range(10):
            created_at = datetime.now(UTC) - timedelta(days=number + 1, hours=-1)
            session.execute(sa.update(videos).where(videos.c.id == f"v{number}").values(created_at=created_at))
    return world


def test_the_effect_names_what_is_newly_retired_and_whose_promise_gets_smaller(aged: World) -> None:
    effect = effect_of(aged.workspace.engine, SHORTER)
    assert effect.changes == {"lifecycle.retention_free_days": (30, 7)}
    assert (effect.live.objects, effect.newly_retired.objects, effect.newly_kept.objects) == (10, 3, 0)
    assert effect.saved_microusd_a_month >= 0
    assert list(effect.broken_promises()) == ["1 free users would keep videos 7 days, not 30 days"]


def test_fewer_days_of_notice_are_a_promise_that_gets_smaller(aged: World) -> None:
    put_in_force(aged.workspace.engine, lifecycle=LifecyclePolicy(notice_free_days=14))
    effect = effect_of(aged.workspace.engine, DEFAULTS)
    assert list(effect.broken_promises()) == ["videos of 1 free users would be told of 0 days before they go, not 14"]


def test_it_is_held_to_the_limits_in_force_and_not_to_its_own(aged: World) -> None:
    wide = BlastRadius(max_user_percent=100, max_percent=100, max_percent_in_24h=100, always_allowed=10)
    most = DEFAULTS.overridden(lifecycle=LifecyclePolicy(retention_free_days=3), limits=wide)
    effect = effect_of(aged.workspace.engine, most)
    with pytest.raises(GuardRefused, match=r"max_percent: 7 of 10[\s\S]*raises these limits alone first"):
        apply(aged.workspace.engine, effect, author="ann", reason="greedy")
    assert current(aged.workspace.engine).version == 0
    apply(
        aged.workspace.engine,
        effect_of(aged.workspace.engine, DEFAULTS.overridden(limits=wide)),
        author="ann",
        reason="1",
    )
    assert apply(aged.workspace.engine, effect_of(aged.workspace.engine, most), author="ann", reason="2") == 2


@pytest.mark.long
def test_of_two_who_apply_at_once_one_is_told(aged: World) -> None:
    engine = aged.workspace.engine
    mine, theirs = (
        effect_of(engine, SHORTER),
        effect_of(engine, DEFAULTS.overridden(lifecycle=LifecyclePolicy(grace_days=9))),
    )
    assert apply(engine, theirs, author="ben", reason="longer grace") == 1
    with pytest.raises(PlanRefused, match=r"ben applied version 1 .*longer grace.* version 0"):
        apply(engine, mine, author="ann", reason="shorter")
    assert current(engine).policies.lifecycle.grace_days == 9


def test_who_applied_what_and_why_is_on_record_and_what_is_frozen_stays(aged: World) -> None:
    engine = aged.workspace.engine
    apply(engine, effect_of(engine, SHORTER), author="ann", reason="trial")
    freeze.freeze(engine, by="ben", reason="stop")
    with pytest.raises(Frozen):
        apply(engine, effect_of(engine, DEFAULTS), author="ann", reason="back")
    with reading(engine) as session:
        recorded = next(record.event for record in audit.events(session, event="policy"))
        audit.verify(session)
    assert (recorded.run_id, recorded.detail["reason"], recorded.detail["version"]) == ("ann", "trial", 1)
    assert recorded.detail["changes"] == {"lifecycle.retention_free_days": ["30", "7"]}


def test_later_events_jobs_and_plans_name_the_version_that_they_were_made_under(world: World) -> None:
    engine = world.workspace.engine
    version = put_in_force(engine, admission=AdmissionPolicy(slots=3))
    freeze.freeze(engine, by="ben", reason="stop")
    freeze.thaw(engine, by="ben")
    with transaction(engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "gift", run_id="test")
    answer = ask(engine, "k")
    assert isinstance(answer, Queued)
    with reading(engine) as session:
        assert next(audit.events(session)).event.detail["policy"] == version
        assert session.execute(sa.select(jobs.c.policy_version)).scalar_one() == version
        audit.verify(session)


@pytest.mark.parametrize(("promised", "then"), [(50, 0), (0, 50)])
def test_a_joined_user_is_charged_what_was_promised_whatever_is_in_force_when_it_ends(
    engine: sa.Engine, promised: int, then: int
) -> None:
    """The share of a hit was told to the API alone, and the worker charged by what is shipped."""
    for user in ("ann", "ben"):
        make_user(engine, user, DOLLAR)
    put_in_force(engine, admission=AdmissionPolicy(hit_charge_percent=promised))
    leader = ask(engine, "k", fox(shared=True))
    assert isinstance(leader, Queued)
    admit(engine, fox(shared=True), user_id="ben", client_key="k")
    put_in_force(engine, admission=AdmissionPolicy(hit_charge_percent=then))
    make(engine, leader.job_id)
    settle.succeed(engine, leader.job_id, claim(engine, leader.job_id), run_id="test")
    assert balances(engine, "ben") == (DOLLAR - leader.price_microusd * promised // 100, 0)


def test_no_work_is_done_under_policies_that_cannot_be_read(engine: sa.Engine) -> None:
    make_user(engine, "ann", DOLLAR)
    version = put_in_force(engine, admission=AdmissionPolicy(slots=3))
    with transaction(engine, "test") as session:
        newer = DEFAULTS.model_dump(mode="json") | {"of_a_later_version": {"x": 1}}
        session.execute(sa.update(policy_versions).values(document=newer))
        session.execute(sa.update(deployment).values(policy_digest="another"))
    with pytest.raises(SchemaError, match=rf"policy version {version} holds .*of_a_later_version") as refused:
        ask(engine, "k")
    assert refused.value.exit_code == 7
    with reading(engine) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 0
    with pytest.raises(SchemaError), transaction(engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "another", run_id="test")


def test_fields_that_no_rule_reads_any_more_do_not_keep_an_earlier_document_from_being_read(engine: sa.Engine) -> None:
    put_in_force(engine, admission=AdmissionPolicy(slots=3))
    with transaction(engine, "test") as session:
        older = DEFAULTS.overridden(admission=AdmissionPolicy(slots=3)).model_dump(mode="json")
        older["recipe"] |= {"skip_bits_per_pixel": 0.03, "lean_bits_per_pixel": 0.08, "preset": 6}
        older["acceptance"] |= {"max_vmaf_mean": 96.5}
        session.execute(sa.update(policy_versions).values(document=older))
        session.execute(sa.update(deployment).values(policy_digest="of an earlier version"))
    found = current(engine).policies
    assert (found.admission.slots, found.recipe.preset) == (3, 6)


def test_a_version_stays_readable_after_others_came(engine: sa.Engine) -> None:
    first = put_in_force(engine, admission=AdmissionPolicy(slots=3))
    put_in_force(engine, admission=AdmissionPolicy(slots=4))
    with reading(engine) as session:
        assert (at(session, 0).admission.slots, at(session, first).admission.slots) == (8, 3)


@pytest.mark.parametrize("policies", [DEFAULTS, different()], ids=["as shipped", "nothing as shipped"])
@pytest.mark.parametrize("only_changed", [False, True])
def test_a_document_reads_back_as_it_was_written(policies: Policies, only_changed: bool) -> None:
    assert read(write(policies, only_changed=only_changed), "it") == policies


@given(days=st.none() | st.integers(366, 36_500), usd=st.none() | st.decimals(1, 1000, places=2))
def test_what_is_off_is_a_word_and_not_null(days: int | None, usd: object) -> None:
    text = json.dumps({"lifecycle": {"retention_pro_days": days}, "budget": {"daily_usd": usd}}, default=str)
    found = read(text.replace("null", "never"), "it")
    assert (found.lifecycle.retention_pro_days, found.budget.daily_usd) == (days, usd)
    if days is None:
        assert read(text, "it").lifecycle.retention_pro_days == 365  # null: as shipped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quota: {free_bytes: -1, nope: 2}", ["quota.free_bytes=-1", "quota.nope: there is no such field"]),
        ("nope: {a: 1}", ["nope: there is no such field"]),
        ("quota: 3", ["quota must hold fields"]),
        ("- a\n- b", ["must hold sections"]),
        ("quota: {free_bytes: 1, free_bytes: 2}", ["free_bytes is named twice"]),
        ("quota: {free_bytes: [", ["is no YAML"]),
        ("lifecycle: {retention_free_days: 100}", ["premium users would lose videos sooner than free users"]),
    ],
)
def test_every_fault_of_a_document_is_named(text: str, said: list[str]) -> None:
    with pytest.raises(PolicyRefused) as refused:
        read(text, "policies.yaml")
    assert all(part in str(refused.value) for part in [*said, "policies.yaml"])


OLD = """
deployments:
  - entrypoint: flows.expire_videos.expire_videos
    parameters: {dry_run: false, policy: {retention_free_days: 60, retention_pro_days: null}}
  - entrypoint: flows.purge_retired.purge_retired
    parameters: {dry_run: false, grace_days: 10}
  - entrypoint: flows.prune_cache.prune_cache
    parameters: {dry_run: false, keeping: {plans_days: 8}}
"""


def test_the_parameters_of_0_1_0_become_a_document() -> None:
    found = collect(OLD, ["admission.slots=4", 'quota={"free_bytes": 5}'])
    assert found.changes(DEFAULTS).keys() == {
        "lifecycle.retention_free_days",
        "lifecycle.retention_pro_days",
        "lifecycle.grace_days",
        "record_retention.plans_days",
        "admission.slots",
        "quota.free_bytes",
    }
    assert found.lifecycle.retention_pro_days is None
    with pytest.raises(PolicyRefused, match=r"lifecycle.grace_days is 10 for purge_retired and 9 for api --param"):
        collect(OLD, ["policy.grace_days=9"])
