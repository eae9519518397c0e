"""Apply policies in tests, without the checks of an operator's document."""

from collections.abc import Iterator
from decimal import Decimal
from functools import reduce
from typing import Any, Final

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError

from reelkeeper.operations.core import policies
from reelkeeper.rules.core.earlier_policies import FIXED
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import deployment, policy_versions


def put_in_force(engine: sa.Engine, **sections: BaseModel) -> int:
    """Apply the shipped policies with the fields that `sections` set; return the version."""
    with reading(engine) as session:
        before = policies.in_force(session).version
    with transaction(engine, "test.policies") as session:
        wanted = DEFAULTS.overridden(**{name: model for name, model in sections.items() if name != "tiers"})
        wanted = wanted.model_copy(update={"tiers": sections.get("tiers", wanted.tiers)})  # whole, as a document has it
        version = policies.put_in_force(session, wanted, after=before, author="test", reason="a test")
    assert version is not None
    return version


def apply_as_earlier(engine: sa.Engine, **fields: object) -> int:
    """Put a version in force as an earlier version wrote it: with all of its fields, and these at other values."""
    version = put_in_force(engine, breaker=BreakerPolicy(bad_percent=70))
    document: dict[str, Any] = DEFAULTS.overridden(breaker=BreakerPolicy(bad_percent=70)).model_dump(mode="json")
    for name, value in {**FIXED, **fields}.items():
        *sections, field = name.split(".")
        reduce(lambda part, section: part.setdefault(section, {}), sections, document)[field] = value
    with transaction(engine, "test") as session:
        session.execute(
            sa.update(policy_versions).where(policy_versions.c.version == version).values(document=document)
        )
        session.execute(sa.update(deployment).values(policy_digest=f"of an earlier version {fields}"))
    return version


def different() -> Policies:
    """Make policies in which no field has the value that is shipped, new fields too."""
    return DEFAULTS.overridden(**{name: _different(getattr(DEFAULTS, name)) for name in Policies.model_fields})


def _different(model: BaseModel) -> BaseModel:
    if isinstance(model, Tiers):
        return Tiers.model_validate({name: _different(tier) for name, tier in model.items()})
    for name in type(model).model_fields:
        if name in _BOUND:
            continue
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            model = type(model).model_validate(_plain(model) | {name: _plain(_different(value))})
            continue
        candidates = iter(_OTHERS[name]) if name in _OTHERS else _candidates(value)
        found = next((made for candidate in candidates if (made := _tried(model, name, candidate)) is not None), None)
        assert found is not None, f"say in _OTHERS what is another value of {name} than {value!r}"
        model = found
    return model


_FLAT: Final = {"base_usd": 1, "complexity_usd": 2, "compute_usd": "0.3", "api_usd": "0.4"}
_BOUND: Final = {"placement"}  # another goes only with the codec and the container that are shipped
_OTHERS: Final[dict[str, list[object]]] = {  # where a number more or less is no value
    "rule": ["fifo", "seed", "first"],
    "queue_weight": [3.25],  # that of no tier
    "codec": ["vp9"],
    "container": ["webm"],  # which holds vp9
    "skip_codecs": [("av1",)],
    "crf_start": [40],
    "cpu_usd_per_hour": [None],  # at a price, clips of a test would not pay for their requests
    "budgets": [({"scope": "service:compute", "period": "day", "usd": 5},)],
    "spend_limits": [({"scope": "user:*", "period": "day", "usd": 5},)],
    "segments": [({"name": "drafts", "tags": ("draft",), "retention_days": 3},)],
    "caps": [({"scope": "provider:fal", "jobs": 5},)],
    "models": [
        (
            {
                "model": "another",
                "provider": "local",
                "price": _FLAT,
                "offers": [{"provider": "http", "price": _FLAT}],
            },
        )
    ],
    "unpriced": ["sell"],
    "levels_percent": [(40, 90, 120)],
    "calendar": [("12-24",), ("2026-12-24",)],
    "version": ["another"],
    "base_usd": [Decimal("0.02")],
    "compute_usd": [Decimal("0.009")],
    "api_usd": [Decimal("0.004")],
}


def _candidates(value: object) -> Iterator[object]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value + 10, value - 10, value + 100)
            yield from (value * 2, value / 2, value * 0.9, value * 1.1)
        case Decimal():
            yield from (value + 1, value - 1, value * 2, value / 2)
        case None:
            yield from (9, 0.5, (1.0, 2.0), 100)
        case tuple():
            yield value[:-1]
        case _:
            raise AssertionError(f"say in _OTHERS what is another value than {value!r}")


def _tried(model: BaseModel, name: str, value: object) -> BaseModel | None:
    try:
        made = type(model).model_validate(_plain(model) | {name: value})
    except ValidationError:
        return None
    return made if getattr(made, name) != getattr(model, name) else None


def _plain(model: BaseModel) -> dict[str, object]:
    return {name: getattr(model, name) for name in type(model).model_fields}
