"""The policies as shipped: those of the release that made the store, until a document says otherwise."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from reelkeeper.errors import PolicyRefused, SchemaError
from reelkeeper.operations.core import policies
from reelkeeper.operations.core.policy_document import read
from reelkeeper.operations.core.policy_import import carried_over, collect
from reelkeeper.operations.lifecycle.policies import apply, effect_of
from reelkeeper.rules.core.earlier_policies import FIXED
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.policies import DEFAULTS, Policies, exception
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import deployment, policy_versions
from tests.policies import apply_as_earlier


def make_older(engine: sa.Engine) -> None:
    """Leave the store as one that an earlier release made: no version 0 of its own."""
    with transaction(engine, "test") as session:
        session.execute(sa.delete(policy_versions))
        session.execute(sa.update(deployment).values(policy_digest=""))


def as_shipped(engine: sa.Engine) -> Policies:
    with reading(engine) as session:
        shipped = policies.at(session, 0)
    assert shipped == policies.current(engine).policies
    return shipped


def test_a_new_store_keeps_links_of_the_services_keys(engine: sa.Engine) -> None:
    shipped = as_shipped(engine)
    assert shipped.recipe.place == "in_place"
    assert [*DEFAULTS.changes(shipped)] == ["recipe.placement"]


def test_an_older_store_keeps_new_keys_until_a_document_names_the_change(sqlite_engine: sa.Engine) -> None:
    make_older(sqlite_engine)
    shipped = as_shipped(sqlite_engine)
    assert shipped.recipe.place == "new_key"
    assert read("tiers: {free: {}}", "f", shipped).recipe.place == "new_key"
    named = read("recipe: {placement: in_place}", "f", shipped)
    assert named.recipe.place == "in_place"
    assert [*shipped.changes(named)] == ["recipe.placement"]


def test_a_document_for_another_codec_is_valid_in_a_new_store(sqlite_engine: sa.Engine) -> None:
    shipped = as_shipped(sqlite_engine)
    assert read("recipe: {codec: av1}", "f", shipped).recipe.place == "new_key"
    assert read("recipe: {preset: 3}", "f", shipped).recipe.place == "in_place"
    assert shipped.overridden(recipe=read("recipe: {codec: vp9}", "f").recipe).recipe.place == "new_key"


def test_going_back_to_version_0_is_going_back_to_what_the_store_was_made_with(sqlite_engine: sa.Engine) -> None:
    shipped = as_shipped(sqlite_engine)
    with transaction(sqlite_engine, "test") as session:
        policies.put_in_force(session, read("recipe: {codec: av1}", "f", shipped), after=0, author="a", reason="r")
    with reading(sqlite_engine) as session:
        assert policies.in_force(session).version == 1
        assert policies.at(session, 0) == shipped


def another(value: object) -> object:
    return 7 if value is None else f"{Decimal(str(value)) * 2}" if isinstance(value, str) else value * 2 + 1  # type: ignore[operator]  # each is a number


PAST = {name: (another(value), value) for name, value in FIXED.items()} | {"order.rule": ("levels", "aging")}


def test_a_version_with_what_is_fixed_now_is_read_and_means_the_same(engine: sa.Engine) -> None:
    version = apply_as_earlier(engine)
    assert policies.current(engine) == (version, DEFAULTS.overridden(breaker=BreakerPolicy(bad_percent=70)))


@pytest.mark.parametrize("name", ["breaker.attempts", "order.rule", "recipe.payback.expected_probes", "saving.min_usd"])
def test_another_value_of_what_is_fixed_now_is_refused_by_name_and_the_rest_can_be_applied(
    sqlite_engine: sa.Engine, name: str
) -> None:
    version = apply_as_earlier(sqlite_engine, **{name: PAST[name][0]})
    with pytest.raises(SchemaError) as refused:
        policies.current(sqlite_engine)
    assert name in str(refused.value)
    with reading(sqlite_engine) as session:  # as the terms of a job, and for `policy show`
        rest = policies.at(session, version)
    effect = effect_of(sqlite_engine, rest)
    assert effect.changes == {name: PAST[name]}
    applied = apply(sqlite_engine, effect, author="ann", reason="upgrade")
    assert policies.current(sqlite_engine) == (applied, rest)


@pytest.mark.parametrize("name", sorted(PAST))
def test_a_document_or_an_exception_may_say_what_is_fixed_now_and_nothing_else(name: str) -> None:
    *sections, field = name.split(".")
    other, same = (nested(sections, {field: value}) for value in PAST[name])
    assert read(yaml.safe_dump(same), "f") == collect(yaml.safe_dump(deployed(same)), []) == DEFAULTS
    carried_over(deployed(same)["deployments"])
    refusals: list[Callable[[], object]] = [
        lambda: read(yaml.safe_dump(other), "f"),
        lambda: collect(yaml.safe_dump(deployed(other)), []),
        lambda: carried_over(deployed(other)["deployments"]),
    ]
    if policy := getattr(DEFAULTS, sections[0], None):
        assert exception(type(policy), same[sections[0]]).model_fields_set <= {"rule", "payback"}
        refusals.append(lambda: exception(type(policy), other[sections[0]]))
    for refusal in refusals:
        with pytest.raises(PolicyRefused) as refused:
            refusal()
        assert name in str(refused.value)


def nested(sections: list[str], fields: dict[str, object]) -> dict[str, Any]:
    return reduce(lambda part, section: {section: part}, reversed(sections), fields)


def deployed(parameters: Mapping[str, object]) -> dict[str, list[dict[str, object]]]:
    return {"deployments": [{"name": "daily", "entrypoint": "flows.x.x", "parameters": dict(parameters)}]}
