"""Every command, from the command itself."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from docs.generated.tables import table
from reelkeeper.cli import app


def walk() -> Iterator[tuple[str, Any]]:
    """Yield every command and group with all its words, depth first."""
    yield from _below("reelkeeper", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  typer's own kind of command
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _below(f"{path} {name}", child)


def sections(_argument: str = "") -> str:
    """Return a section for each command, and a smaller one for each below a group."""
    return "\n\n".join(_section(path, command) for path, command in walk())


def _section(path: str, command: Any) -> str:  # noqa: ANN401  as above
    level = "##" if path.count(" ") < 2 else "###"  # noqa: PLR2004  reelkeeper GROUP COMMAND
    parts = [f"{level} {path}", _prose(command.help or "")]
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = [path, *(["[OPTIONS]"] if options else []), *(_metavar(argument) for argument in arguments)]
    if getattr(command, "commands", None):
        usage.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    parts.append(f"```text\n{' '.join(usage)}\n```")
    if rows := [(f"`{_metavar(argument)}`", argument.help or "", _default(argument)) for argument in arguments]:
        parts.append(table(("argument", "meaning", "default"), rows))
    if rows := [(_names(option), option.help or "", _default(option)) for option in options]:
        parts.append(table(("option", "what it does", "default"), rows))
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """Return a docstring as Markdown."""
    return re.sub(r"\[(?:/|/?[a-z]+)\]", "", inspect.cleandoc(text))  # without rich's marks: [bold]...[/]


def _metavar(argument: Any) -> str:  # noqa: ANN401  as above
    name = argument.metavar or argument.name.upper()
    several = "..." if argument.nargs != 1 and not name.endswith("...") else ""
    return f"{name}{several}" if argument.required else f"[{name}{several}]"


def _names(option: Any) -> str:  # noqa: ANN401  as above
    names = ", ".join(f"`{item}`" for item in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    return f"{names} `{option.metavar or _type(option)}`"


def _type(option: Any) -> str:  # noqa: ANN401  as above
    return (
        str(option.display_type(typer.Context(typer.main.get_command(app)))).strip("<>").removesuffix(" range").upper()
    )


def _default(parameter: Any) -> str:  # noqa: ANN401  as above
    value = parameter.default
    if parameter.required:
        return "needed"
    if value is None or callable(value) or value == [] or parameter.name == "help":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"
