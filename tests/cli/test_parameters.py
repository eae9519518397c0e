"""`--param`: what the command line says becomes a flow's parameters, or is refused with field, value and limit."""

import math
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from reelkeeper.cli import parameters
from reelkeeper.errors import Misconfigured, PolicyRefused
from reelkeeper.operations.core import overrides
from reelkeeper.operations.core.overrides import Override
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.policies import DEFAULTS


def flow(
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
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
        "policy.retention_pro_days=never",
        "recipe.codec=vp9",
        "recipe.payback.cpu_usd_per_hour=0.04",
        "grace_days=9",
    )
    assert given["limits"] == BlastRadius(max_objects=10, max_percent=2.5)
    assert given["policy"] == LifecyclePolicy(retention_pro_days=None)
    assert given["policy"].model_fields_set == {"retention_pro_days"}
    assert (given["recipe"].codec, str(given["recipe"].payback.cpu_usd_per_hour)) == ("vp9", "0.04")
    assert given["grace_days"] == 9


def test_a_whole_policy_can_be_given_as_json() -> None:
    assert read('limits={"max_objects": 1}') == {"limits": BlastRadius(max_objects=1)}


def test_null_leaves_a_field_as_the_policy_in_force_says() -> None:
    """Prefect's forms write null for a field that nobody touched."""
    assert read("policy.retention_pro_days=null")["policy"].model_fields_set == set()


def test_fields_that_contradict_what_is_shipped_may_suit_what_is_in_force() -> None:
    given = read("policy.retention_free_days=100")["policy"]
    with pytest.raises(ValueError, match="free users"):
        DEFAULTS.overridden(lifecycle=given)
    longer = DEFAULTS.overridden(lifecycle=LifecyclePolicy(retention_premium_days=200))
    assert longer.overridden(lifecycle=given).lifecycle.retention_free_days == 100


def test_nothing_given_leaves_the_flows_own_defaults() -> None:
    assert read() == {}


@pytest.mark.parametrize(
    ("param", "said"),
    [
        ("limits.max_objects=-1", "limits.max_objects=-1: input should be greater than or equal to 0"),
        ("limits.max_percent=NaN", "limits.max_percent=nan"),
        ("limits.max_percent=Infinity", "limits.max_percent=inf"),
        ("limits.max_percent=101", "less than or equal to 100"),
        ("limits.max_objects=ten", "limits.max_objects='ten'"),
        ("limits.max_objects=never", "limits.max_objects=None"),
        ("policy.compress_below_views=0", "policy.compress_below_views=0: input should be greater than or equal to 1"),
        ("policy.retire_after_days=-5", "policy.retire_after_days=-5"),
        ("limits=5", "limits=5"),
    ],
)
def test_a_value_that_no_policy_takes_is_refused_with_field_value_and_limit(param: str, said: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        read(param)
    assert said in str(refused.value)
    assert "nothing was changed" in str(refused.value)
    assert refused.value.exit_code == 9


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (["limts.max_objects=1"], "it has policy, limits, recipe, grace_days"),
        (["limits.max_objets=1"], "it has max_objects,"),
        (["limits.max_objects.more=1"], "it takes one value"),
        (["limits"], "NAME=VALUE"),
        (["dry_run=false"], "say --apply"),
        (["plan_id=x"], "say --plan"),
        (["limits=5", "limits.max_objects=1"], "give one of them"),
    ],
)
def test_a_name_that_the_flow_does_not_have_lists_those_it_has(params: list[str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        read(*params)


def test_not_a_number_is_what_json_calls_nan() -> None:
    assert math.isnan(parameters._value("NaN"))


def test_a_form_says_what_is_in_force_sends_no_default_back_and_takes_null_and_never() -> None:
    longer = DEFAULTS.overridden(lifecycle=LifecyclePolicy(retention_pro_days=400))
    overrides.show_in_force(longer)
    try:
        schema = TypeAdapter(Annotated[LifecyclePolicy | None, Override()]).json_schema()
    finally:
        overrides.show_in_force(DEFAULTS)
    field = schema["$defs"]["LifecyclePolicy"]["properties"]["retention_pro_days"]
    assert field["description"].endswith("As deployed: 400")
    assert "default" not in field
    for value, is_taken in ((400, True), (None, True), ("never", True), (0, False), ("ever", False)):
        assert Draft202012Validator(field).is_valid(value) == is_taken
    strict = schema["$defs"]["LifecyclePolicy"]["properties"]["grace_days"]
    assert not Draft202012Validator(strict).is_valid("never")  # no rule that can be off
