"""Every policy with its thresholds: the flows' parameters, and what the HTTP API judges by."""

import inspect
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from docs.generated import flows
from docs.generated.tables import code, kind, table
from reelkeeper.operations.jobs.admit import Terms
from reelkeeper.rules.core.access import AccessPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy

_API: Final = "[`reelkeeper api`](commands.md#reelkeeper-api)"


def used() -> dict[tuple[str, type[BaseModel]], list[str]]:
    """Give each policy by the name that `--param` calls it, with links to what takes it."""
    found: dict[tuple[str, type[BaseModel]], list[str]] = {}
    for flow in flows.names():
        for name, hint, _ in flows.parameters(flow):
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                found.setdefault((name, hint), []).append(f"[`{flow}`](flows.md#{flow})")
    for field, policy in {"access": AccessPolicy(), "budget": BudgetPolicy(), **Terms()._asdict()}.items():
        name = "policy" if field == "lifecycle" else field
        found.setdefault((name, type(policy)), []).append(_API)
    return found


def sections(_argument: str = "") -> str:
    """Give a section for each policy."""
    return "\n\n".join(_section(name, policy, takers) for (name, policy), takers in sorted(used().items(), key=str))


def fields(prefix: str, policy: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Give name, kind, default and description of each field, and of those of the policies inside it."""
    schema: dict[str, Any] = policy.model_json_schema()
    for name, field in policy.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from fields(f"{prefix}.{name}", type(field.default))
        else:
            said = kind(schema["properties"][name], schema.get("$defs", {}))
            yield f"`{prefix}.{name}`", said, _default(field.default), field.description or ""


def _default(value: object) -> str:
    return code(list(value)) if isinstance(value, tuple) else code(value)


def _section(name: str, policy: type[BaseModel], takers: list[str]) -> str:
    said = inspect.cleandoc(policy.__doc__ or "")
    return "\n\n".join(
        [
            f"## {flows.titled(name, policy)}",
            said,
            f"Taken by {', '.join(takers)}. It is `{policy.__module__.replace('.', '/')}.py`.",
            table(("parameter", "what it is", "default", "what it says"), fields(name, policy)),
        ]
    )
