"""Document the flows from their docstrings, their parameters and prefect.yaml."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_type_hints

import yaml
from prefect import Flow
from pydantic import BaseModel, TypeAdapter

from docs.generated.tables import code, kind, table
from reelkeeper.rules.policies import policy_of, section_of

ROOT: Final = Path(__file__).parents[2]
_SAID: Final = {  # the same in every flow that has them
    "dry_run": "Show what would be done, without doing it",
    "as_of": "The time to judge by; default: when the run was due",
    "plan_id": "A saved plan to carry out unchanged; default: make a new one",
}


def names() -> list[str]:
    """Return every flow, in the order of the schedule and then by name."""
    found = sorted(path.stem for path in (ROOT / "flows").glob("[a-z]*.py"))
    scheduled = [deployment["entrypoint"].rpartition(".")[2] for deployment in deployments()]
    return sorted(found, key=lambda name: scheduled.index(name) if name in scheduled else len(scheduled))


def deployments() -> list[dict[str, Any]]:
    """Return the deployments in prefect.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def parameters(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each parameter of a flow: its name, its annotation and its default."""
    found = flow(name)
    hints = get_type_hints(found.fn, include_extras=True)
    for parameter in inspect.signature(found.fn).parameters.values():
        yield parameter.name, hints[parameter.name], parameter.default


def schedule(_argument: str = "") -> str:
    """Return a table of the schedule."""
    rows = [
        (
            f"[`{_name(deployment)}`](#{_name(deployment)})",
            deployment.get("description", ""),
            _cron(deployment) or "on demand",
            f"`{deployment['work_pool']['name']}`",
        )
        for deployment in deployments()
    ]
    return table(("flow", "what it does", "cron (UTC)", "work pool"), rows)


def facts(name: str) -> str:
    """Return the documentation of one flow, from its code."""
    found = flow(name)
    first, _, rest = inspect.cleandoc(found.fn.__doc__ or "").partition("\n\n")
    asks = inspect.cleandoc(inspect.getmodule(found.fn).__doc__ or "").splitlines()[0]
    rows = [(f"`{each}`", *_told(each, hint, default)) for each, hint, default in parameters(name)]
    planned = [_cron(deployment) for deployment in deployments() if _name(deployment) == name]
    return "\n\n".join(
        [
            f"*{asks}*",
            first.replace("\n", " "),
            *([rest] if rest else []),
            f"Runs at {' and '.join(planned)} (cron, UTC). It is `flows/{name}.py`."
            if any(planned)
            else f"It has no schedule and is started on demand. It is `flows/{name}.py`.",
            table(("parameter", "default", "meaning"), rows),
        ]
    )


def _told(name: str, hint: Any, default: Any) -> tuple[str, str]:  # noqa: ANN401  an annotation and a value of it
    if (policy := policy_of(hint)) is not None:
        anchor = titled(section_of(policy), policy).replace(": ", "-").replace(" ", "-")
        return "in force", f"Overrides of [{spelt(policy.__name__)}](policies.md#{anchor}): {_first_line(policy)}"
    schema = TypeAdapter(hint).json_schema()
    said = _SAID.get(name, "")
    return code(default), f"{said}: {kind(schema, {})}" if said else kind(schema, {})


def spelt(name: str) -> str:
    """Return the name of a class in words: BlastRadius is blast radius."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def titled(name: str, policy: type[BaseModel]) -> str:
    """Return the heading of a policy: what `--param` calls it, and what it is."""
    return name if name == spelt(policy.__name__) else f"{name}: {spelt(policy.__name__)}"


def _first_line(policy: type[BaseModel]) -> str:
    return inspect.cleandoc(policy.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def flow(name: str) -> Flow[..., Any]:
    """Return a flow by its name."""
    made: Flow[..., Any] = getattr(import_module(f"flows.{name}"), name)
    return made


def _name(deployment: dict[str, Any]) -> str:
    return str(deployment["entrypoint"]).rpartition(".")[2]


def _cron(deployment: dict[str, Any]) -> str:
    return " and ".join(f"`{item['cron']}`" for item in deployment.get("schedules") or [])
