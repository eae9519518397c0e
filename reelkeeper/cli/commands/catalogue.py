"""`catalogue`: compare the models in force with what vendors publish about them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, say
from reelkeeper.cli.words import AsJson
from reelkeeper.errors import Misconfigured, PartialFailure
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.operations.billing.published import Checked
    from reelkeeper.rules.billing.catalogue import ModelEntry
    from reelkeeper.rules.billing.published import Compared

group = typer.Typer(help="Check the catalogue of models against what vendors publish.", no_args_is_help=True)
_INDENT: Final = " " * 4  # of an entry of `book.models`
_WIDTH: Final = 116


@group.callback()
def _group() -> None:
    """Keep `check` a command of its own."""


@group.command()
def check(
    vendor: Annotated[str | None, typer.Option(metavar="NAME", help="Only models of this provider.")] = None,
    litellm: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="LiteLLM's model_prices_and_context_window.json; default: the installed package's."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare prices, limits and retirements with what vendors publish, and print the lines to change.

    fal's and OpenRouter's own lists are read where their keys are set, and LiteLLM's table where it is installed.
    Changes nothing. Exit code 0 if the catalogue is up to date, 1 if something differs, 6 if a vendor did not answer.
    """
    from reelkeeper.adapters import litellm_table, providers
    from reelkeeper.operations.billing.published import check as compared
    from reelkeeper.operations.core.policies import current

    settings, table = configured(), litellm_table.read(litellm)
    lists = providers.price_lists(settings)
    if table is None and not lists:
        raise Misconfigured(
            "nothing to compare with: set REELKEEPER_FAL_TOKEN or REELKEEPER_OPENROUTER_TOKEN, install litellm beside "
            "reelkeeper, or give --litellm FILE"
        )
    with store() as engine:
        book = current(engine).policies.book
    if vendor is not None and not any(vendor in entry.providers for entry in book.models):
        raise typer.BadParameter(f"no model of the catalogue is made by {vendor!r}", param_hint="--vendor")
    found = compared(book, lists, table, vendor, datetime.now(UTC).date())
    if as_json:
        emit(_json(found))
    else:
        _show(found)
    if found.differing:
        raise typer.Exit(1)
    if found.unreachable:
        raise PartialFailure(f"did not answer: {', '.join(found.unreachable)}; the others are up to date")


def _json(found: "Checked") -> dict[str, object]:
    return {
        "differences": [
            {"model": item.model, "provider": item.provider, "source": item.source}
            | {"lines": list(_lines(item)), "unclear": item.unclear}
            for item in found.differing
        ],
        "warnings": [
            {"model": item.model, "provider": item.provider, "warning": warning}
            for item in found.compared
            for warning in item.warnings
        ],
        "compared": len(found.compared),
        "unpublished": [{"model": model, "provider": provider} for model, provider in found.unpublished],
        "unreachable": found.unreachable,
    }


def _show(found: "Checked") -> None:
    for item in found.compared:
        for line in _lines(item):
            say(line)
        for note in item.unclear:
            say(f"Look up {item.model} at {item.provider}: {note}.")
        for warning in item.warnings:
            say(f"Warning, {item.model} at {item.provider}: {warning}.")
    for name, why in found.unreachable.items():
        say(f"{name} did not answer: {why}.")
    if found.unpublished:
        names = ", ".join(f"{model} at {provider}" for model, provider in found.unpublished)
        say(f"Nobody publishes anything of {names}: look at their vendors' pages.")
    say(f"Compared: {many(len(found.compared), 'model')}; {len(found.differing)} to change or to look up.")


def _lines(item: "Compared") -> Iterator[str]:
    """Write a whole entry of `book.models` as a diff: what it leaves and adds can be pasted in place of the entry."""
    before, after = (_yaml(entry) if entry else [] for entry in (item.before, item.after))
    name = f"book.models: {item.model} at {item.provider}"
    return unified_diff(before, after, name, item.source, n=len(before), lineterm="")


def _yaml(entry: "ModelEntry") -> list[str]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes exact decimals as numbers."""

    Dumper.add_representer(Decimal, lambda out, usd: out.represent_scalar("tag:yaml.org,2002:float", f"{usd:f}"))
    document = [_plain(entry.model_dump(exclude_defaults=True))]
    text = yaml.dump(document, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=_WIDTH)
    return [f"{_INDENT}{line}" for line in text.splitlines()]


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever a field of the policies may be
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
