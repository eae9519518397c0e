"""`--param`: text becomes a flow's parameters, or is refused with field, value and limit."""

import inspect
import json
import math
from typing import Annotated, Any

import pytest
from inline_snapshot import snapshot
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from reelkeeper.cli import parameters
from reelkeeper.errors import Misconfigured, PolicyRefused
from reelkeeper.operations.core import overrides
from reelkeeper.operations.core.overrides import Override
from reelkeeper.rules.core.tiers import GIB, SHIPPED, TierPolicy, Tiers
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.policies import DEFAULTS, Policies
from tests.reading import as_read
from tests.tiers import tiers as shipped_but


def flow(
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    limits: Annotated[BlastRadius | None, Override()] = None,
    recipe: Annotated[Recipe | None, Override()] = None,
    grace_days: int = 7,
    dry_run: bool = True,
    as_of: str | None = None,
    plan_id: str | None = None,
) -> None:
    """A flow as the real ones are."""


def read(*params: str) -> dict[str, Any]:
    return parameters.read("flow", flow, params)


def test_dotted_names_build_typed_policies() -> None:
    given = read(
        "limits.max_objects=10",
        "limits.max_percent=2.5",
        "policy.compress_below_views=never",
        "tiers.pro.retention_days=never",
        "recipe.codec=vp9",
        "recipe.payback.cpu_usd_per_hour=0.04",
        "grace_days=9",
    )
    assert given["limits"] == BlastRadius(max_objects=10, max_percent=2.5)
    assert given["policy"] == LifecyclePolicy(compress_below_views=None)
    assert given["policy"].model_fields_set == {"compress_below_views"}
    assert given["tiers"].names == ("pro",)
    assert given["tiers"].root["pro"].model_fields_set == {"retention_days"}
    assert DEFAULTS.overridden(tiers=given["tiers"]).tiers == shipped_but(pro={"retention_days": None})
    assert (given["recipe"].codec, str(given["recipe"].payback.cpu_usd_per_hour)) == ("vp9", "0.04")
    assert given["grace_days"] == 9


def test_a_whole_policy_can_be_given_as_json() -> None:
    assert read('limits={"max_objects": 1}') == {"limits": BlastRadius(max_objects=1)}


def test_segments_can_be_given_for_one_run() -> None:
    written = '[{"name": "drafts", "tags": ["draft"], "retention_days": "never"}]'
    (segment,) = read(f"policy.segments={written}")["policy"].segments
    assert (segment.name, segment.retention_days) == ("drafts", "never")
    schema = TypeAdapter(Annotated[LifecyclePolicy | None, Override()]).json_schema()
    Draft202012Validator(schema).validate({"segments": json.loads(written)})
    assert not Draft202012Validator(schema).is_valid({"segments": [{"tags": ["draft"]}]})


def test_null_of_a_form_leaves_a_field_as_the_policy_in_force_says() -> None:
    """Prefect's forms write null for a field that nobody touched."""
    assert read("policy.grace_days=null")["policy"].model_fields_set == set()
    found = TypeAdapter(Annotated[Tiers | None, Override()]).validate_python({"pro": {"retention_days": None}})
    assert found is not None
    assert found.root["pro"].model_fields_set == set()


@pytest.mark.parametrize(
    "param",
    [
        "tiers.pro.retention_days=null",
        'tiers={"pro": {"retention_days": null}}',
        "policy.retire_below_views=null",
        'policy={"retire_below_views": null}',
        "tiers.free.retention_days=forever",
        "tiers.free.retention_days=-1",
        "policy.retire_below_views=",
    ],
)
def test_what_a_person_could_mean_by_never_is_refused_with_that_word(param: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read(param)
    assert "`never`" in str(refused.value)


def test_fields_that_contradict_what_is_shipped_may_suit_what_is_in_force() -> None:
    given = read("tiers.free.retention_days=100")["tiers"]
    with pytest.raises(ValueError, match="free users"):
        DEFAULTS.overridden(tiers=given)
    longer = DEFAULTS.overridden(tiers=shipped_but(premium={"retention_days": 200}))
    assert longer.overridden(tiers=given).tiers.retention_days() == {"free": 100, "premium": 200, "pro": 365}


def test_a_tier_that_is_not_in_force_is_refused_with_those_that_are() -> None:
    with pytest.raises(PolicyRefused) as refused:
        DEFAULTS.overridden(tiers=read("tiers.gold.retention_days=100")["tiers"])
    assert as_read(refused.value) == snapshot("no tier 'gold'; there are free, premium, pro")


def test_without_parameters_the_flows_defaults_apply() -> None:
    assert read() == {}


@pytest.mark.parametrize(
    ("param", "limit"),
    [
        ("limits.max_objects=-1", "0"),
        ("limits.max_percent=NaN", "finite"),
        ("limits.max_percent=Infinity", "finite"),
        ("limits.max_percent=101", "100"),
        ("limits.max_objects=ten", "integer"),
        ("limits.max_objects=never", "integer"),
        ("policy.compress_below_views=0", "`never`"),
        ("policy.retire_after_days=-5", "1"),
        ("limits=5", "JSON"),
        ("tiers.free.retention_days=0", "`never`"),
        ("tiers.free=never", "JSON"),
        ("policy.segments=drafts", "JSON"),
    ],
)
def test_an_invalid_value_is_refused_with_field_value_and_limit(param: str, limit: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read(param)
    name = param.partition("=")[0]
    assert f" {name}=" in str(refused.value)
    assert limit in str(refused.value).partition(f"{name}=")[2]
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("params", "way_out"),
    [
        (["limts.max_objects=1"], ", recipe, grace_days"),
        (["limits.max_objets=1"], ", ".join(BlastRadius.model_fields)),
        (["limits.max_objects.more=1"], "limits.max_objects"),
        (["limits"], "NAME=VALUE"),
        (["tiers.free.retentoin_days=1"], ", ".join(TierPolicy.model_fields)),
        (["policy.retention_free_days=60"], "tiers.free.retention_days"),
        (["dry_run=false"], "--apply"),
        (["plan_id=x"], "--plan"),
        (["limits=5", "limits.max_objects=1"], "limits.max_objects"),
    ],
)
def test_a_name_that_the_flow_does_not_have_is_refused_with_the_way_out(params: list[str], way_out: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read(*params)
    assert way_out in str(refused.value)


def test_not_a_number_is_what_json_calls_nan() -> None:
    assert math.isnan(parameters._value("NaN"))


def test_a_field_moved_to_the_tiers_is_refused_with_its_new_place() -> None:
    """As a deployment of an earlier version holds it."""
    with pytest.raises(PolicyRefused) as refused:
        TypeAdapter(Annotated[LifecyclePolicy | None, Override()]).validate_python({"retention_free_days": 60})
    assert as_read(refused.value) == snapshot("""\
retention_free_days is tiers.free.retention_days now, in a parameter of its own; nothing was
  changed\
""")


def form(policy: type[BaseModel], in_force: Policies) -> dict[str, Any]:
    hint: Any = Annotated[policy | None, Override()]
    overrides.show_in_force(in_force)
    try:
        found: dict[str, Any] = TypeAdapter(hint).json_schema()
    finally:
        overrides.show_in_force(DEFAULTS)
    return found


def test_a_form_shows_the_policy_in_force_sends_no_defaults_and_accepts_null_and_never() -> None:
    schema = form(LifecyclePolicy, DEFAULTS.overridden(lifecycle=LifecyclePolicy(compress_below_views=9)))
    told = schema["description"]  # beside null, on which the form opens
    assert told.startswith(inspect.cleandoc(LifecyclePolicy.__doc__ or "").splitlines()[0])
    assert {f"{name} " in told for name in LifecyclePolicy.model_fields} == {True}
    assert " compress_below_views 9; " in told
    assert [option.get("title") for option in schema["anyOf"] if option.get("type") == "null"] == [overrides._UNSET]
    assert "default" not in schema
    field = schema["$defs"]["LifecyclePolicy"]["properties"]["compress_below_views"]
    assert field["description"].endswith("As deployed: 9")
    assert "default" not in field
    for value, is_taken in ((9, True), (None, True), ("never", True), (0, False), ("ever", False)):
        assert Draft202012Validator(field).is_valid(value) == is_taken
    strict = schema["$defs"]["LifecyclePolicy"]["properties"]["grace_days"]
    assert not Draft202012Validator(strict).is_valid("never")  # no rule that can be off


def test_a_form_has_the_fields_of_each_tier_that_is_in_force() -> None:
    gold = Tiers({"free": SHIPPED.root["free"], "gold": TierPolicy(retention_days=400, quota_bytes=GIB)})
    schema = form(Tiers, DEFAULTS.model_copy(update={"tiers": gold}))
    assert all(value in schema["description"] for value in ("gold.retention_days 400", f"gold.quota_bytes {GIB}"))
    tiers = schema["$defs"]["Tiers"]
    assert list(tiers["properties"]) == ["free", "gold"]
    shown = {
        name: tier["anyOf"][0]["properties"]["retention_days"]["description"]
        for name, tier in tiers["properties"].items()
    }
    assert [shown[name].rpartition(": ")[2] for name in ("free", "gold")] == ["30", "400"]
    whole = Draft202012Validator({**tiers, "$defs": schema["$defs"]})
    for given, is_taken in (
        ({"free": {"retention_days": 60}, "gold": None}, True),
        ({"gold": {"retention_days": "never", "quota_bytes": None}}, True),
        ({"later": {"notice_days": 3}}, True),  # one that was applied since
        ({"free": {"retention_days": 0}}, False),
        ({"free": {"nope": 1}}, False),
    ):
        assert whole.is_valid(given) == is_taken, given
