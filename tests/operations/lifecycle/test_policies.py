"""Policy documents: simulated effect, limits, concurrent changes, and rollback."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa
import yaml
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, GuardRefused, PlanRefused, PolicyRefused, SchemaError, TierRefused
from reelkeeper.model import Action
from reelkeeper.model.requests import Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.policies import at, current
from reelkeeper.operations.core.policy_document import read, write
from reelkeeper.operations.core.policy_import import collect
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.operations.lifecycle.policies import apply, effect_of
from reelkeeper.rules.core.earlier_policies import earlier, moved
from reelkeeper.rules.core.tiers import GIB, SHIPPED, TierPolicy, Tiers
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.policies import ABSENT, DEFAULTS, TERMS, Policies, parse, terms_in, terms_of
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, deployment, jobs, policy_versions, users, videos, view_days
from tests.faults.world import World
from tests.marks import marked
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import DOLLAR, balances, make_user
from tests.operations.changes import change
from tests.policies import different, put_in_force
from tests.tiers import any_tiers, tiers

SHORTER = DEFAULTS.overridden(tiers=tiers(free={"retention_days": 7}), recipe=Recipe(placement="auto"))


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
    change(aged, blobs, size_bytes=100 * 10**9)
    effect = effect_of(aged.workspace.engine, SHORTER)
    assert effect.changes == {"tiers.free.retention_days": (30, 7)}
    assert (effect.live.objects, effect.newly_retired.objects, effect.newly_kept.objects) == (10, 3, 0)
    assert effect.saved_microusd_a_month == 4_500_000  # 300 GB at $0.015 a GB and month
    put_in_force(aged.workspace.engine, tiers=SHORTER.tiers)
    assert effect_of(aged.workspace.engine, DEFAULTS).saved_microusd_a_month == -4_500_000  # it costs that much more
    assert list(effect.broken_promises()) == [snapshot("1 free user would keep videos 7 days, not 30 days")]


def test_what_unknown_views_leave_out_is_told_as_what_it_would_be_had_nobody_viewed_them(aged: World) -> None:
    """The rules for cold videos act on none of them; from the ninth day on, they would be cold."""
    policy = LifecyclePolicy(compress_below_views=None, retire_after_days=7)
    effect = effect_of(aged.workspace.engine, DEFAULTS.overridden(lifecycle=policy))
    assert (effect.newly_retired.objects, effect.unknown_views) == (0, 3)
    assert [effect.unwatched[after, Action.RETIRE] for after in (False, True)] == [0, 3]


@pytest.mark.parametrize(("hours", "counted"), [(23.9, 10), (24.1, 0)])
def test_the_effect_counts_what_was_retired_in_the_last_24_hours(aged: World, hours: float, counted: int) -> None:
    change(aged, videos, retired_at=datetime.now(UTC) - timedelta(hours=hours))
    assert effect_of(aged.workspace.engine, SHORTER).retired_in_24h == counted


def test_fewer_days_of_notice_are_a_promise_that_gets_smaller(aged: World) -> None:
    put_in_force(aged.workspace.engine, tiers=tiers(free={"notice_days": 14}))
    effect = effect_of(aged.workspace.engine, DEFAULTS)
    assert list(effect.broken_promises()) == [
        snapshot("videos of 1 free user would be announced 0 days before retirement, not 14")
    ]


@pytest.mark.parametrize("fields", [{"keep_times": 2}, {"grace_days": 6}, {"grace_days_service_keys": 13}])
def test_whatever_users_may_do_for_a_shorter_time_is_a_promise_that_gets_smaller(
    engine: sa.Engine, fields: dict[str, int]
) -> None:
    put_in_force(engine)
    shorter = LifecyclePolicy.model_validate(fields)
    assert len(list(effect_of(engine, DEFAULTS.overridden(lifecycle=shorter)).broken_promises())) == 1
    assert list(effect_of(engine, DEFAULTS).broken_promises()) == []


def test_fewer_days_for_which_a_video_can_be_kept_are_a_promise_that_gets_smaller(engine: sa.Engine) -> None:
    put_in_force(engine, tiers=tiers(free={"keep_days": 14}))
    assert len(list(effect_of(engine, DEFAULTS).broken_promises())) == 1


@pytest.mark.parametrize(("placement", "compressed"), [("new_key", 2), ("in_place", 1)])
def test_videos_that_cannot_be_put_in_place_do_not_count_as_compressed(
    world: World, placement: str, compressed: int
) -> None:
    today = datetime.now(UTC)
    for video_id, codec in {"fits": "h264", "does-not": "mpeg4"}.items():
        blob = world.video(video_id, key=f"{world.address.prefix}ann/{video_id}.mp4")
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.id == blob).values(codec=codec))
    change(world, videos, created_at=today - timedelta(days=20))
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(view_days), [{"day": (today - timedelta(days=n)).date()} for n in range(32)])
    smaller = DEFAULTS.overridden(
        lifecycle=LifecyclePolicy.model_validate({"retire_below_views": None}),
        recipe=Recipe.model_validate({"placement": placement, "payback": {"cpu_usd_per_hour": None}}),
    )
    put_in_force(world.workspace.engine, lifecycle=LifecyclePolicy.model_validate({"compress_below_views": None}))
    assert effect_of(world.workspace.engine, smaller).newly_compressed == compressed


def test_without_a_passed_contract_a_document_changes_nothing_at_the_services_keys_and_the_limits_count_it_all(
    aged: World,
) -> None:
    change(aged, blobs, size_bytes=10**9, is_ours=False)
    engine, day = aged.workspace.engine, DEFAULTS.overridden(tiers=tiers(free={"retention_days": 1}))
    effect = effect_of(engine, day, service_keys=False)
    assert (effect.newly_retired.objects, effect.left_untested, effect.saved_microusd_a_month) == (0, 9, 0)
    tested = effect_of(engine, day)
    assert (tested.newly_retired.objects, tested.left_untested, tested.saved_bytes) == (9, 0, 9 * 10**9)
    limits = BlastRadius(max_percent=10, always_allowed=1)
    put_in_force(engine, limits=limits)
    for service_keys in (True, False):  # the next test of the bucket may pass
        with pytest.raises(GuardRefused):
            effect_of(engine, day.overridden(limits=limits), service_keys=service_keys).require_within_limits()


GOLD = TierPolicy(retention_days=400, quota_bytes=20 * GIB)


def test_the_effect_names_tiers_that_come_go_and_move(aged: World) -> None:
    engine = aged.workspace.engine
    with_gold = Tiers({"free": SHIPPED.root["free"], "gold": GOLD})
    effect = effect_of(engine, DEFAULTS.model_copy(update={"tiers": with_gold}))
    assert effect.changes["tiers"] == (("free", "premium", "pro"), ("free", "gold"))
    assert effect.changes["tiers.gold.retention_days"] == (ABSENT, 400)
    assert effect.changes["tiers.pro.quota_bytes"] == (10 * GIB, ABSENT)
    assert (effect.removed_tiers, effect.newly_retired.objects) == (("premium", "pro"), 0)
    effect.require_no_users_left()  # ann is free
    moved = Tiers(dict.fromkeys(("premium", "free", "pro"), GOLD))
    put_in_force(engine, tiers=Tiers(dict.fromkeys(("free", "premium", "pro"), GOLD)))
    assert effect_of(engine, DEFAULTS.model_copy(update={"tiers": moved})).changes == {
        "tiers": (("free", "premium", "pro"), ("premium", "free", "pro"))
    }


def test_a_tier_that_users_still_have_is_not_removed(aged: World) -> None:
    engine = aged.workspace.engine
    make_user(engine, "ben", tier="premium")
    make_user(engine, "cyd", tier="of an import long ago")
    wanted = DEFAULTS.model_copy(update={"tiers": Tiers({"pro": SHIPPED.root["pro"]})})
    effect = effect_of(engine, wanted)
    assert list(effect.broken_promises())[:1] == [
        snapshot("1 free user would have no tier: their videos would be kept, and they could store nothing new")
    ]
    with pytest.raises(TierRefused) as refused:
        effect.require_no_users_left()
    assert str(refused.value) == snapshot(
        "nothing was applied: the tiers are only pro then, and users have free (1 user), premium (1 user). A document that names a tier must name all: add free, premium, as reelkeeper policy show prints them. Only to remove a tier for good, give its users another one first"
    )
    with pytest.raises(TierRefused) as refused:
        apply(engine, effect, author="ann", reason="one tier")
    assert str(refused.value) == snapshot(
        "nothing was applied: the tiers are only pro then, and users have free (1 user), premium (1 user). A document that names a tier must name all: add free, premium, as reelkeeper policy show prints them. Only to remove a tier for good, give its users another one first"
    )
    assert current(engine).version == 0
    with transaction(engine, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
    assert apply(engine, effect, author="ann", reason="one tier") == 1  # what it found is asked again


def test_a_document_is_checked_against_the_limits_in_force_not_its_own(aged: World) -> None:
    wide = BlastRadius(max_user_percent=100, max_percent=100, max_percent_in_24h=100, always_allowed=10)
    most = DEFAULTS.overridden(tiers=tiers(free={"retention_days": 3}), limits=wide)
    effect = effect_of(aged.workspace.engine, most)
    with pytest.raises(GuardRefused) as refused:
        apply(aged.workspace.engine, effect, author="ann", reason="greedy")
    bytes_, samples = f"{7 * aged.clip.stat().st_size:,}", ", ".join(effect.samples)
    assert marked(refused.value, BYTES=bytes_, SAMPLES=samples) == snapshot("""\
refused, and nothing was changed: policy apply selected 7 of 10 live videos, 135.4 kB
  max_percent: 7 of 10 live videos (70.00 %), limit 5 %
  max_user_percent: 1 user above 20 % of their videos, the worst: user 'ann' 7 of 10
  max_percent_in_24h: 7 of 10 videos in 24 hours (70.00 %), limit 10 %
  for example: SAMPLES
  override: apply a document that raises these limits alone first, or lower retention in steps\
""")
    assert current(aged.workspace.engine).version == 0
    apply(
        aged.workspace.engine,
        effect_of(aged.workspace.engine, DEFAULTS.overridden(limits=wide)),
        author="ann",
        reason="1",
    )
    assert apply(aged.workspace.engine, effect_of(aged.workspace.engine, most), author="ann", reason="2") == 2


@pytest.mark.long("two policies judge a whole catalogue")
def test_the_second_of_two_concurrent_applications_is_refused(aged: World) -> None:
    engine = aged.workspace.engine
    mine, theirs = (
        effect_of(engine, SHORTER),
        effect_of(engine, DEFAULTS.overridden(lifecycle=LifecyclePolicy(grace_days=9))),
    )
    assert apply(engine, theirs, author="ben", reason="longer grace") == 1
    with pytest.raises(PlanRefused) as refused:
        apply(engine, mine, author="ann", reason="shorter")
    assert marked(refused.value) == snapshot(
        "nothing was applied: ben applied version 1 at TIME UTC (longer grace), but this document was compared with version 0. See reelkeeper policy diff, and apply again"
    )
    assert current(engine).policies.lifecycle.grace_days == 9


def test_an_application_is_audited_with_author_and_reason_and_refused_during_a_freeze(aged: World) -> None:
    engine = aged.workspace.engine
    apply(engine, effect_of(engine, SHORTER), author="ann", reason="trial")
    freeze.freeze(engine, by="ben", reason="stop")
    with pytest.raises(Frozen):
        apply(engine, effect_of(engine, DEFAULTS), author="ann", reason="back")
    with reading(engine) as session:
        recorded = next(record.event for record in audit.events(session, event="policy"))
        audit.verify(session)
    assert (recorded.run_id, recorded.detail["reason"], recorded.detail["version"]) == ("ann", "trial", 1)
    assert recorded.detail["changes"] == {"tiers.free.retention_days": ["30", "7"]}


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
    settle.succeed(engine, Attempt(leader.job_id, claim(engine, leader.job_id)), run_id="test")
    assert balances(engine, "ben") == (DOLLAR - leader.price_microusd * promised // 100, 0)


def test_no_work_is_done_under_policies_that_cannot_be_read(engine: sa.Engine) -> None:
    make_user(engine, "ann", DOLLAR)
    version = put_in_force(engine, admission=AdmissionPolicy(slots=3))
    with transaction(engine, "test") as session:
        newer = DEFAULTS.model_dump(mode="json") | {"of_a_later_version": {"x": 1}}
        session.execute(sa.update(policy_versions).values(document=newer))
        session.execute(sa.update(deployment).values(policy_digest="another"))
    with pytest.raises(SchemaError, match=rf" {version} .*of_a_later_version") as refused:
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


FLAT: Final[dict[str, Any]] = {  # each field in which a tier's values stood, with a value that is not shipped
    **{f"lifecycle.retention_{tier}_days": value for tier, value in (("free", 31), ("premium", 91), ("pro", None))},
    **{f"lifecycle.notice_{tier}_days": value for tier, value in (("free", 1), ("premium", 2), ("pro", 3))},
    **{f"lifecycle.keep_{tier}_days": value for tier, value in (("free", 4), ("premium", 5), ("pro", 6))},
    **{f"quota.{tier}_bytes": value for tier, value in (("free", 70), ("premium", 80), ("pro", 60))},
    "order.premium_weight": 1.25,
    "order.pro_weight": 3,
}
MEANT: Final[dict[str, dict[str, Any]]] = {
    "free": {"retention_days": 31, "notice_days": 1, "keep_days": 4, "quota_bytes": 70},
    "premium": {
        "retention_days": 91,
        "notice_days": 2,
        "keep_days": 5,
        "quota_bytes": 80,
        "queue_weight": 1.25,
    },
    "pro": {
        "retention_days": None,
        "notice_days": 3,
        "keep_days": 6,
        "quota_bytes": 60,
        "queue_weight": 3,
    },
}


def flat(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the document of an earlier version: whole, with these fields where they stood."""
    document = DEFAULTS.model_dump(mode="json") | {"quota": {}}
    del document["tiers"]
    for name, value in values.items():
        section, _, field = name.partition(".")
        document[section] = document[section] | {field: value}
    return document


def test_a_version_in_which_tiers_were_scattered_means_the_same(engine: sa.Engine) -> None:
    """Also where pro users may store less than premium ones, which is refused of a document today."""
    version = put_in_force(engine)
    with transaction(engine, "test") as session:
        session.execute(sa.update(policy_versions).values(document=flat(FLAT)))
        session.execute(sa.update(deployment).values(policy_digest="of scattered tiers"))
    found = current(engine)
    assert found == (version, DEFAULTS.model_copy(update={"tiers": tiers(**MEANT)}))
    assert found.policies.tiers.names == ("free", "premium", "pro")
    with reading(engine) as session:
        assert at(session, version) == found.policies
    assert effect_of(engine, found.policies).changes == {}


@given(st.sets(st.sampled_from(sorted(FLAT))))
def test_each_scattered_field_alone_is_read_as_it_was_meant(names: set[str]) -> None:
    stored = earlier(flat({name: FLAT[name] for name in names}))
    found = Policies.model_validate(stored) if names else DEFAULTS
    told = {moved(*name.partition(".")[::2]): FLAT[name] for name in names}
    assert {name: then for name, (_, then) in DEFAULTS.changes(found).items()} == told


def test_a_document_of_an_earlier_version_keeps_its_meaning() -> None:
    text = (
        "lifecycle: {retention_free_days: 60, retention_pro_days: never, keep_free_days: null}\nquota: {free_bytes: 5}"
    )
    wanted = tiers(free={"retention_days": 60, "quota_bytes": 5}, pro={"retention_days": None})
    assert read(text, "it") == DEFAULTS.model_copy(update={"tiers": wanted})


def test_a_plan_of_an_earlier_version_is_carried_on_under_what_it_was_made_under() -> None:
    policy, kept = terms_of(
        {"policy": flat({"lifecycle.retention_free_days": 12, "lifecycle.grace_days": 9})["lifecycle"]}
    )
    assert (policy.grace_days, kept) == (9, tiers(free={"retention_days": 12}))
    assert terms_of(terms_in(Policies(lifecycle=policy, tiers=kept), TERMS["expire_videos"])) == (policy, kept)


def test_a_version_stays_readable_after_others_came(engine: sa.Engine) -> None:
    first = put_in_force(engine, admission=AdmissionPolicy(slots=3))
    put_in_force(engine, admission=AdmissionPolicy(slots=4))
    with reading(engine) as session:
        assert (at(session, 0).admission.slots, at(session, first).admission.slots) == (8, 3)


@pytest.mark.parametrize("policies", [DEFAULTS, different()], ids=["as shipped", "nothing as shipped"])
@pytest.mark.parametrize("only_changed", [False, True])
def test_a_document_reads_back_as_it_was_written(policies: Policies, only_changed: bool) -> None:
    assert read(write(policies, only_changed=only_changed), "it") == policies


@given(any_tiers(), st.booleans())
def test_any_tiers_are_read_back_as_they_were_written_and_in_their_order(found: Tiers, only_changed: bool) -> None:
    policies = DEFAULTS.model_copy(update={"tiers": found})
    again = read(write(policies, only_changed=only_changed), "it")
    assert list(again.tiers.items()) == list(found.items())
    assert again == policies


def test_each_tier_field_is_described_once() -> None:
    text = write(DEFAULTS)
    assert text.count(str(TierPolicy.model_fields["quota_bytes"].description)) == 1
    assert text.count("quota_bytes: ") == 3
    changed = write(DEFAULTS.overridden(tiers=tiers(premium={"keep_days": 5})), only_changed=True)
    assert yaml.safe_load(changed) == {"tiers": {"free": {}, "premium": {"keep_days": 5}, "pro": {}}}


@given(days=st.none() | st.integers(366, 36_500), usd=st.none() | st.decimals(1, 1000, places=2))
def test_rules_that_are_off_are_written_as_a_word_not_null(days: int | None, usd: object) -> None:
    text = json.dumps(
        {"tiers": {"free": {}, "pro": {"retention_days": days}}, "budget": {"daily_usd": usd}}, default=str
    )
    found = read(text.replace("null", "never"), "it")
    assert (found.tiers.root["pro"].retention_days, found.budget.daily_usd) == (days, usd)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("tiers: {free: {retention_days: null}, premium: {}}", ["tiers.free.retention_days"]),
        ("lifecycle: {retire_below_views: ~, grace_days: null}", ["lifecycle.retire_below_views"]),
        ("budget: {daily_usd: , monthly_usd: null}", ["budget.daily_usd", "budget.monthly_usd"]),
    ],
)
def test_null_is_refused_where_it_could_be_taken_for_never(text: str, fields: list[str]) -> None:
    with pytest.raises(PolicyRefused) as refused:
        read(text, "it")
    assert [line.partition("=")[0].strip() for line in str(refused.value).splitlines()[1:]] == fields
    assert "`never`" in str(refused.value) or "`none`" in str(refused.value)


def test_null_is_accepted_where_a_field_is_off_as_shipped() -> None:
    unchanged = read("admission: {low_credits_usd: null}", "it")
    assert unchanged == DEFAULTS


@pytest.mark.parametrize("value", ["-1", ".inf", "''", "forever", "off", "Never", "0"])
def test_what_is_not_the_word_for_off_is_refused_with_it(value: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        read(f"tiers: {{free: {{retention_days: {value}}}, premium: {{}}, pro: {{}}}}", "it")
    assert "tiers.free.retention_days" in str(refused.value)
    assert "`never`" in str(refused.value)


def test_a_stored_version_with_null_is_read_as_before() -> None:
    stored = {"tiers": {"free": {"retention_days": None}, "pro": {}}, "budget": {"daily_usd": None}}
    assert (parse(stored).tiers.root["free"].retention_days, parse(stored).budget) == (30, DEFAULTS.budget)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "order: {slot: 1, user_burst: 0}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  order.user_burst=0: input should be greater than or equal to 1
  order.slot: no such field. To see all fields: reelkeeper policy show\
"""),
        ),
        (
            "nope: {a: 1}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  nope: no such field. To see all fields: reelkeeper policy show\
"""),
        ),
        ("limits: 3", snapshot("policies.yaml: limits must contain fields, such as `grace_days: 7`, but contains 3")),
        ("nonsense: 1", snapshot("policies.yaml: nonsense: no such field. To see all fields: reelkeeper policy show")),
        ("[" * 5_000, snapshot("policies.yaml is not valid YAML: maximum recursion depth exceeded")),
        ("- a\n- b", snapshot("policies.yaml must contain sections, such as `quota:`, but contains a list")),
        (
            "order: {user_burst: 1, user_burst: 2}",
            snapshot(
                'policies.yaml is not valid YAML: user_burst is named twice in "<unicode string>", line 1, column 8: order: {user_burst: 1, user_burst: 2} ^'
            ),
        ),
        (
            "order: {user_burst: [",
            snapshot(
                "policies.yaml is not valid YAML: while parsing a flow node expected the node content, but found '<stream end>' in \"<unicode string>\", line 1, column 22: order: {user_burst: [ ^"
            ),
        ),
        (
            "tiers: {free: {retention_days: 100}, premium: {}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers: premium users would lose videos sooner than free users: premium.retention_days=90, free.retention_days=100. They stand from the least to the most paid; are they swapped?\
"""),
        ),
        (
            "tiers: {free: {quota_bytes: 10}, premium: {quota_bytes: 9}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers: premium users could store less than free users: premium.quota_bytes=9, free.quota_bytes=10. They stand from the least to the most paid; are they swapped?\
"""),
        ),
        (
            "tiers: {Gold: {retention_days: 1, quota_bytes: 1}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers: 'Gold' is no name of a tier: one has at most 32 lower-case letters, digits, - and _, begins with a letter, and is not one of false, never, no, none, null, off, on, true, unknown, yes\
"""),
        ),
        (
            "tiers: {gold: {retention_days: 1}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers.gold.quota_bytes: field required\
"""),
        ),
        (
            "tiers: {gold: }",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers.gold.retention_days: field required; `never` switches it off
  tiers.gold.quota_bytes: field required\
"""),
        ),
        (
            "tiers: {pro: never}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers.pro=None: input should be an object\
"""),
        ),
        (
            "tiers: {}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  tiers: 0 tiers: there must be 1 to 20\
"""),
        ),
        (
            "tiers: [free]",
            snapshot("policies.yaml: tiers must contain fields, such as `grace_days: 7`, but contains ['free']"),
        ),
        (
            "{tiers: {free: {}}, quota: {free_bytes: 1}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  quota: no such field. To see all fields: reelkeeper policy show\
"""),
        ),
        (
            "{tiers: {free: {}}, lifecycle: {retention_free_days: 1}}",
            snapshot("""\
policies.yaml was refused, and nothing was changed:
  lifecycle.retention_free_days: this field is tiers.free.retention_days now\
"""),
        ),
    ],
)
def test_every_fault_of_a_document_is_named(text: str, said: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        read(text, "policies.yaml")
    assert str(refused.value) == said


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
        "tiers.free.retention_days",
        "tiers.pro.retention_days",
        "lifecycle.grace_days",
        "record_retention.plans_days",
        "admission.slots",
        "tiers.free.quota_bytes",
    }
    assert found.tiers.root["pro"].retention_days is None
    with pytest.raises(PolicyRefused) as refused:
        collect(OLD, ["policy.grace_days=9"])
    assert str(refused.value) == snapshot(
        "lifecycle.grace_days is 10 for purge_retired and 9 for api --param; a document can contain only one value. Choose one, and keep the other as an exception of that deployment"
    )
