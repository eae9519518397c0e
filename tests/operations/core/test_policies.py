"""The policies as shipped: those of the release that made the store, until a document says otherwise."""

import sqlalchemy as sa

from reelkeeper.operations.core import policies
from reelkeeper.operations.core.policy_document import read
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import deployment, policy_versions


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
    assert read("recipe: {max_probes: 3}", "f", shipped).recipe.place == "in_place"
    assert shipped.overridden(recipe=read("recipe: {codec: vp9}", "f").recipe).recipe.place == "new_key"


def test_going_back_to_version_0_is_going_back_to_what_the_store_was_made_with(sqlite_engine: sa.Engine) -> None:
    shipped = as_shipped(sqlite_engine)
    with transaction(sqlite_engine, "test") as session:
        policies.put_in_force(session, read("recipe: {codec: av1}", "f", shipped), after=0, author="a", reason="r")
    with reading(sqlite_engine) as session:
        assert policies.in_force(session).version == 1
        assert policies.at(session, 0) == shipped
