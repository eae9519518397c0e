"""`policy`: every threshold, tier, price, budget and limit, as one document that is checked, tried and applied."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import dollars, emit, say, size, table
from reelkeeper.cli.words import AsJson, who
from reelkeeper.errors import InputRefused

if TYPE_CHECKING:
    from reelkeeper.operations.lifecycle.policies import Effect
    from reelkeeper.rules.policies import Policies
    from reelkeeper.store import Engine

group = typer.Typer(
    help="Show, check, apply and roll back the policies: thresholds, tiers, prices, budgets, limits.",
    no_args_is_help=True,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The document, such as policies.yaml; - is standard input.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, for the history and the audit record.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OldFile = Annotated[Path, typer.Argument(metavar="PREFECT.YAML", help="The file that 0.1.0 ran with.")]
OldParams = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="As given to `reelkeeper api` of 0.1.0. May be repeated."),
]
Version = Annotated[
    int | None, typer.Option("--version", min=0, help="A version of the history; by default the one in force.")
]


@group.command()
def show(
    version: Version = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only values that differ from those that Reelkeeper ships.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the policies in force as a document, each field with what it does. Version 0 is what Reelkeeper ships."""
    from reelkeeper.operations.core.policy_document import write

    with store() as engine:
        number, policies = _version(engine, version)
    if as_json:
        emit({"version": number, "policies": policies.model_dump(mode="json")})
        return
    sys.stdout.write(f"# Version {number}\n{write(policies, only_changed=changed)}\n")


@group.command()
def check(file: File) -> None:
    """Check a document whole, and say what it would change and do. Changes nothing."""
    after = _read(file)
    with store() as engine:
        effect = _effect(engine, after)
    effect.require_no_users_left()
    effect.require_within_limits()


@group.command()
def apply(file: File, reason: Reason, yes: Yes = False) -> None:
    """Put a document in force, for every process, from its next piece of work on; first it shows what that will do.

    What is newly retired is held to the blast radius in force. Promises on jobs that were admitted stay as they were.
    """
    after = _read(file)
    with store() as engine:
        put_in_force(engine, after, reason, yes=yes)


@group.command()
def diff(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A document, or give --version.")] = None,
    version: Version = None,
) -> None:
    """List the fields that a document, or an earlier version, has otherwise than what is in force."""
    if (file is None) == (version is None):
        raise typer.BadParameter("give a document or --version")
    after = _read(file) if file else None
    with store() as engine:
        _, before = _version(engine, None)
        other = after or _version(engine, version)[1]
    _show_changes(before.changes(other), "in force", str(file or f"version {version}"))


@group.command()
def history(as_json: AsJson = False) -> None:
    """List who applied which version, when and why, the newest first."""
    from reelkeeper.store.core import policies
    from reelkeeper.store.core.engine import reading

    with store() as engine, reading(engine) as session:
        found = policies.history(session)
    if as_json:
        emit([version._asdict() for version in found])
    elif not found:
        say("Version 0: what Reelkeeper ships. Nothing was applied yet.")
    else:
        rows = [
            (version.version, f"{version.created_at:%Y-%m-%d %H:%M}", version.author, version.reason)
            for version in found
        ]
        table((">version", "applied (UTC)", "by", "why"), rows)


@group.command()
def rollback(
    version: Annotated[int, typer.Argument(min=0, help="A version of the history; 0 is what Reelkeeper ships.")],
    reason: Reason,
    yes: Yes = False,
) -> None:
    """Put an earlier version in force again, as a new version; held to the same checks as any document."""
    with store() as engine:
        _, after = _version(engine, version)
        put_in_force(engine, after, f"back to version {version}: {reason}", yes=yes)


@group.command("import")
def import_(
    file: OldFile,
    param: OldParams = None,
) -> None:
    """Print the document of a deployment of 0.1.0, whose policies stood in prefect.yaml and in `api --param`."""
    from reelkeeper.operations.core.policy_document import write

    sys.stdout.write(write(collected(file, param), only_changed=True) + "\n")


def collected(file: Path, param: list[str] | None) -> "Policies":
    """Gather the policies of a deployment of 0.1.0. Raises InputRefused, PolicyRefused."""
    from reelkeeper.operations.core.policy_import import collect

    return collect(_text(file), param or [])


def _read(file: Path) -> "Policies":
    from reelkeeper.operations.core.policy_document import read

    if str(file) == "-":
        return read(sys.stdin.read(), "standard input")
    return read(_text(file), str(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"{file} cannot be read: {error}") from None


def _version(engine: "Engine", version: int | None) -> "tuple[int, Policies]":
    from reelkeeper.operations.core import policies
    from reelkeeper.store.core.engine import reading

    with reading(engine) as session:
        return policies.in_force(session) if version is None else (version, policies.at(session, version))


def _effect(engine: "Engine", after: "Policies") -> "Effect":
    from reelkeeper.operations.lifecycle.policies import effect_of

    effect = effect_of(engine, after)
    _show_changes(effect.changes, f"version {effect.before.version}", "then")
    saved = effect.saved_microusd_a_month
    table(
        ("what it does", ">videos", ">bytes"),
        [
            ("newly retired", f"{effect.newly_retired.objects:,}", size(effect.newly_retired.size_bytes)),
            *(
                (f"  by segment {name}", f"{counts.objects:,}", size(counts.size_bytes))
                for name, counts in effect.retired_by_segment.items()
            ),
            ("newly kept", f"{effect.newly_kept.objects:,}", size(effect.newly_kept.size_bytes)),
            ("newly compressed", f"{effect.newly_compressed:,}", ""),
            ("live videos", f"{effect.live.objects:,}", size(effect.live.size_bytes)),
        ],
    )
    say(f"Storage costs {dollars(abs(saved))} a month {'less' if saved >= 0 else 'more'}, once the grace is over.")
    for promise in effect.broken_promises():
        say(f"A promise gets smaller: {promise}.")
    return effect


def put_in_force(engine: "Engine", after: "Policies", reason: str, *, yes: bool) -> None:
    """Show what a document will do, hold it to the limits, ask, and apply it."""
    from reelkeeper.operations.lifecycle.policies import apply as operation

    effect = _effect(engine, after)
    if not effect.changes:
        say("Nothing is applied: this is what is in force.")
        return
    effect.require_no_users_left()
    effect.require_within_limits()
    if not yes:
        typer.confirm("Put this in force?", abort=True)
    version = operation(engine, effect, author=who(), reason=reason)
    say(f"Version {version} is in force. Back: reelkeeper policy rollback {version - 1} --reason ...")


def _show_changes(changes: dict[str, tuple[object, object]], before: str, after: str) -> None:
    from reelkeeper.operations.core.policy_document import shown

    if not changes:
        say("No field differs.")
        return
    table(
        ("!field", before, after),
        [(name, shown(name, was), shown(name, then)) for name, (was, then) in changes.items()],
    )
