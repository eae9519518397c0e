"""Every policy with its thresholds: the flows' parameters, and what the HTTP API judges by."""

import inspect
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from docs.generated import flows
from docs.generated.tables import code, kind, table
from reelkeeper.operations.core.policy_document import shown
from reelkeeper.rules.billing.catalogue import ModelEntry, ModelLimits, Offer, Rate, VendorPrice
from reelkeeper.rules.core.tiers import TierPolicy, Tiers
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.jobs.routing import RoutingPolicy
from reelkeeper.rules.lifecycle.segments import Segment
from reelkeeper.rules.policies import DEFAULTS, Policies, policy_of, section_of

_API_FOLLOWS: Final = ("access", "admission", "book", "breaker", "budget", "lifecycle", "routing", "tiers")
_DISPATCH: Final = "[`dispatch_jobs`](flows.md#dispatch_jobs)"
_API: Final = "[`reelkeeper api`](commands.md#reelkeeper-api)"


def used() -> dict[tuple[str, type[BaseModel]], list[str]]:
    """Return each section with links to the flows that take an exception to it, and to what else follows it."""
    found: dict[tuple[str, type[BaseModel]], list[str]] = {
        (name, type(getattr(DEFAULTS, name))): [] for name in Policies.model_fields
    }
    for flow in flows.names():
        for _, hint, _ in flows.parameters(flow):
            if (policy := policy_of(hint)) is not None:
                found[section_of(policy), policy].append(f"[`{flow}`](flows.md#{flow})")
    for name in _API_FOLLOWS:
        found[name, type(getattr(DEFAULTS, name))].append(_API)
    found["breaker", BreakerPolicy].append(_DISPATCH)
    found["routing", RoutingPolicy].append(_DISPATCH)
    return found


def sections(_argument: str = "") -> str:
    """Return a section for each policy."""
    return "\n\n".join(_section(name, policy, takers) for (name, policy), takers in sorted(used().items(), key=str))


def catalogue(_argument: str = "") -> str:
    """List every field of a model catalogue entry as a table."""
    parts: list[tuple[str, type[BaseModel]]] = [("", ModelEntry), ("limits.", ModelLimits), ("price.", VendorPrice)]
    parts += [("price.rates[].", Rate), ("offers[].", Offer)]
    rows = ((f"`{before}{name}`", *said) for before, part in parts for name, *said in _listed(part))
    return table(("field", "type", "unset", "description"), rows)


def segments(_argument: str = "") -> str:
    """List every field of a segment of the lifecycle as a table."""
    rows = ((f"`{name}`", said, told) for name, said, _, told in _listed(Segment))
    return table(("field", "type", "description"), rows)


def _listed(part: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    schema: dict[str, Any] = part.model_json_schema()
    for name, field in part.model_fields.items():
        given = not field.is_required() and field.default is not None and not isinstance(field.default, BaseModel)
        usual = _default(name, field.default) if given else ""
        said = kind(schema["properties"][name], schema.get("$defs", {}))
        yield name, said, usual, field.description or ""


def fields(prefix: str, policy: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, kind, default and description of each field, and of those of the policies inside it."""
    if policy is Tiers:
        yield from _fields_of_a_tier(prefix)
        return
    schema: dict[str, Any] = policy.model_json_schema()
    for name, field in policy.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from fields(f"{prefix}.{name}", type(field.default))
        else:
            said = kind(schema["properties"][name], schema.get("$defs", {}))
            yield f"`{prefix}.{name}`", said, _default(name, field.default), field.description or ""


def _fields_of_a_tier(prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """List the fields with their defaults, by tier where these differ; a field without a default is required."""
    schema: dict[str, Any] = TierPolicy.model_json_schema()
    for name, field in TierPolicy.model_fields.items():
        shipped = {tier: getattr(values, name) for tier, values in DEFAULTS.tiers.items()}
        usual = ", ".join(f"{tier} `{shown(name, value)}`" for tier, value in shipped.items())
        if len({*shipped.values()}) == 1:
            usual = _default(name, next(iter(shipped.values())))
        elif not field.is_required():
            usual += f"; any other `{shown(name, field.default)}`"
        said = kind(schema["properties"][name], schema.get("$defs", {}))
        yield f"`{prefix}.NAME.{name}`", said, usual, field.description or ""


def _default(name: str, value: object) -> str:
    return f"`{shown(name, value)}`" if value is None else code(list(value) if isinstance(value, tuple) else value)


def _section(name: str, policy: type[BaseModel], takers: list[str]) -> str:
    said = inspect.cleandoc(policy.__doc__ or "")
    return "\n\n".join(
        [
            f"## {flows.titled(name, policy)}",
            said,
            f"Followed by {', '.join(takers)}. It is `{policy.__module__.replace('.', '/')}.py`.",
            table(("parameter", "type", "default", "description"), fields(name, policy)),
        ]
    )
