"""`run --help` lists the flows, and `run FLOW --help` what can be set for one."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from reelkeeper.cli import orchestration
from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import say, table

_NO_DEFAULT = "-"


class FlowCommand(TyperCommand):
    """A command whose first argument is a flow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  of a click that typer brings itself
        """Show the help of a flow that is named beside --help; else add the list of flows to the command's own."""
        if {"--help", "-h"} & set(args):
            known = known_flows()
            if flow := next((word for word in args if word in known), None):
                _show(flow)
                raise typer.Exit
            listed = "\n\n".join(f"[bold]{name}[/]  {_asks(name)}" for name in known)
            self.epilog = f"Flows; reelkeeper run FLOW --help shows what can be set:\n\n{listed}"
        return super().parse_args(ctx, args)


def known_flows() -> list[str]:
    """List the flows, in alphabetical order, without importing one."""
    return sorted(module.name for module in pkgutil.iter_modules(_folder()))


def _folder() -> list[str]:
    return list(importlib.import_module("flows").__path__)


def _asks(flow: str) -> str:
    """Give the first line of a flow's module, without importing it: Prefect takes seconds."""
    text = (Path(_folder()[0]) / f"{flow}.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def _show(flow: str) -> None:
    orchestration.prepare(configured().state_dir)  # or Prefect makes a folder in the user's home
    function = getattr(importlib.import_module(f"flows.{flow}"), flow).fn
    say(inspect.getdoc(function) or "")
    table(("!--param", "default", "what it is"), list(_rows(function)))
    say("A dry run, unless you say --apply; --as-of and --plan are options of their own.")


def _rows(function: Any) -> Iterator[tuple[str, object, str]]:  # noqa: ANN401  a flow's function
    from pydantic import TypeAdapter

    from reelkeeper.cli.parameters import OURS

    hints = get_type_hints(function, include_extras=True)
    for name, one in inspect.signature(function).parameters.items():
        if name in OURS:
            continue
        fields = _fields(name, hints[name], one.default)
        if fields:
            yield from fields
        else:
            yield name, _shown(one.default), str(TypeAdapter(hints[name]).json_schema().get("description", ""))


def _fields(name: str, hint: Any, default: object) -> list[tuple[str, object, str]]:  # noqa: ANN401  an annotation
    """Give a row for each field of a policy, also of one within it; none of anything else."""
    rows: list[tuple[str, object, str]] = []
    for field, info in getattr(hint, "model_fields", {}).items():
        path, value = f"{name}.{field}", getattr(default, field, info.default)
        rows += _fields(path, info.annotation, value) or [(path, _shown(value), info.description or "")]
    return rows


def _shown(value: object) -> object:
    if value is inspect.Parameter.empty:
        return _NO_DEFAULT
    return "null" if value is None else str(value)
