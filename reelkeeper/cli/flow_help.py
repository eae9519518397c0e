"""Help of `run`: `run --help` lists the flows, and `run FLOW --help` the parameters of one."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from typer.core import TyperCommand

from deployments import orchestration
from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import say, table

if TYPE_CHECKING:
    from pydantic import BaseModel


class FlowCommand(TyperCommand):
    """A command whose first argument is the name of a flow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  of a click that typer brings itself
        """Show a flow's help if a flow is given with --help; else add the list of flows to the command's help."""
        if {"--help", "-h"} & set(args):
            known = known_flows()
            if flow := next((word for word in args if word in known), None):
                _show(flow)
                raise typer.Exit
            listed = "\n\n".join(f"[bold]{name}[/]  {_asks(name)}" for name in known)
            self.epilog = f"Flows; reelkeeper run FLOW --help shows a flow's parameters:\n\n{listed}"
        return super().parse_args(ctx, args)


def known_flows() -> list[str]:
    """List the flows, in alphabetical order, without importing one."""
    return sorted(module.name for module in pkgutil.iter_modules(_folder()))


def _folder() -> list[str]:
    return list(importlib.import_module("flows").__path__)


def _asks(flow: str) -> str:
    """Return the first line of a flow's docstring, without importing it, since Prefect takes seconds to load."""
    text = (Path(_folder()[0]) / f"{flow}.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def _show(flow: str) -> None:
    orchestration.prepare(configured().state_dir)  # else Prefect creates a folder in the user's home
    function = getattr(importlib.import_module(f"flows.{flow}"), flow).fn
    say(inspect.getdoc(function) or "")
    table(("!--param", "in force", "what it is"), list(_rows(function)))
    say("A dry run unless --apply is given; --as-of and --plan are separate options.")


def _rows(function: Any) -> Iterator[tuple[str, object, str]]:  # noqa: ANN401  a flow's function
    from pydantic import TypeAdapter

    from reelkeeper.cli.parameters import OURS
    from reelkeeper.operations.core.policies import current
    from reelkeeper.rules.policies import policy_of, section_of

    hints = get_type_hints(function, include_extras=True)
    with store() as engine:
        policies = current(engine).policies
    for name, parameter in inspect.signature(function).parameters.items():
        if name in OURS:
            continue
        if policy := policy_of(hints[name]):
            yield from _fields(name, getattr(policies, section_of(policy)))
        else:
            description = str(TypeAdapter(hints[name]).json_schema().get("description", ""))
            yield name, "from the policy" if parameter.default is None else str(parameter.default), description


def _fields(name: str, policy: "BaseModel") -> Iterator[tuple[str, object, str]]:
    """Return a row for each field of a policy, including nested policies."""
    from pydantic import BaseModel

    from reelkeeper.operations.core.policy_document import shown
    from reelkeeper.rules.policies import described

    for field, value, description in described(policy):
        if isinstance(value, BaseModel):
            yield from _fields(f"{name}.{field}", value)
        else:
            yield f"{name}.{field}", shown(field, value), description
