"""`policy`: show, check, apply and roll back all thresholds, tiers, prices, budgets and limits, in one document."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, reading, store
from reelkeeper.cli.screen import dollars, emit, listing, say, size, table
from reelkeeper.cli.words import MAX_NUMBER, AsJson, not_blank, text_of, who
from reelkeeper.rules.core.wording import LEAST, contract_gate, many

if TYPE_CHECKING:
    from reelkeeper.operations import Engine
    from reelkeeper.operations.lifecycle.policies import Effect
    from reelkeeper.rules.policies import Policies

group = typer.Typer(
    help="Show, check, apply and roll back the policies: thresholds, tiers, prices, budgets, limits.",
    no_args_is_help=True,
)
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The document, such as policies.yaml; - reads standard input.")
]
Reason = Annotated[
    str, typer.Option("--reason", callback=not_blank, help="The reason, for the history and the audit record.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OldFile = Annotated[Path, typer.Argument(metavar="PREFECT.YAML", help="The prefect.yaml of 0.1.0.")]
OldParams = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="As given to `reelkeeper api` of 0.1.0. May be repeated."),
]
Version = Annotated[
    int | None,
    typer.Option("--version", min=0, max=MAX_NUMBER, help="A version from the history; default: the one in force."),
]


@group.command()
def show(
    version: Version = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only values that differ from the shipped defaults.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the policies in force as a document, with a description of each field. Version 0 has the defaults."""
    from reelkeeper.operations.core.policies import find
    from reelkeeper.operations.core.policy_document import write
    from reelkeeper.rules.policies import fixed_faults

    with store() as engine:
        number, policies, without_effect = find(engine, version)
    if as_json:
        emit({"version": number, "policies": policies.model_dump(mode="json"), "without_effect": without_effect})
        return
    gone = "".join(f"# Left out: {fault}\n" for fault in fixed_faults(without_effect))
    sys.stdout.write(f"# Version {number}\n{gone}{write(policies, only_changed=changed)}\n")


@group.command()
def check(file: File) -> None:
    """Check a whole document, and show its differences and effects. Changes nothing."""
    with store() as engine:
        effect = _effect(engine, _read(engine, file))
    effect.require_no_users_left()
    effect.require_within_limits()


@group.command()
def apply(file: File, reason: Reason, yes: Yes = False) -> None:
    """Apply a document after showing its effects. Every process uses it from its next piece of work on.

    The number of newly retired videos must be within the blast radius in force. Admitted jobs keep their old terms.
    """
    with store() as engine:
        put_in_force(engine, _read(engine, file), reason, yes=yes)


@group.command()
def diff(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A document, or give --version.")] = None,
    version: Version = None,
) -> None:
    """List the fields in which a document, or an earlier version, differs from the policies in force."""
    if (file is None) == (version is None):
        raise typer.BadParameter("give a document or --version")
    from reelkeeper.operations.core.policies import find

    with store() as engine:
        before = find(engine, None).policies
        other = _read(engine, file) if file else find(engine, version).policies
    _show_changes(before.changes(other), "in force", str(file or f"version {version}"))


@group.command()
def history(as_json: AsJson = False) -> None:
    """List who applied which version, when and why, newest first."""
    from reelkeeper.store.core import policies

    with reading() as session:
        found = policies.history(session)
    headings = (">version", "!applied (UTC)", "by", "why")
    cells = ("version", "created_at", "author", "reason")
    otherwise = "Version 0, the shipped defaults, is in force. Nothing was applied yet."
    listing(found, headings, cells, as_json=as_json, otherwise=otherwise)


@group.command()
def rollback(
    version: Annotated[
        int, typer.Argument(min=0, max=MAX_NUMBER, help="A version from the history; 0 has the shipped defaults.")
    ],
    reason: Reason,
    yes: Yes = False,
) -> None:
    """Apply an earlier version again, as a new version, after the same checks as any document."""
    from reelkeeper.errors import PolicyRefused
    from reelkeeper.operations.core.policies import find, refusal

    with store() as engine:
        _, after, without_effect = find(engine, version)
        # guard policy.rollback_fixed: a rollback says that it brings back what it cannot
        if without_effect:
            raise PolicyRefused(
                f"nothing was applied: {refusal(version, without_effect)}. To apply the rest of it: reelkeeper policy "
                f"show --version {version} > policies.yaml, then reelkeeper policy apply policies.yaml --reason TEXT"
            )
        put_in_force(engine, after, f"back to version {version}: {reason}", yes=yes)


@group.command("import")
def import_(
    file: OldFile,
    param: OldParams = None,
) -> None:
    """Print the policies of a deployment of 0.1.0, from its prefect.yaml and its `api --param`, as a document."""
    from reelkeeper.operations.core.policy_document import write

    sys.stdout.write(write(collected(file, param), only_changed=True) + "\n")


def collected(file: Path, param: list[str] | None) -> "Policies":
    """Collect the policies of a deployment of 0.1.0. Raises InputRefused, PolicyRefused."""
    from reelkeeper.operations.core.policy_import import collect

    return collect(text_of(file), param or [])


def _read(engine: "Engine", file: Path) -> "Policies":
    from reelkeeper.operations.core.policies import find
    from reelkeeper.operations.core.policy_document import read

    shipped = find(engine, 0).policies
    if str(file) == "-":
        return read(sys.stdin.read(), "standard input", shipped)
    return read(text_of(file), str(file), shipped)


def _effect(engine: "Engine", after: "Policies") -> "Effect":
    from reelkeeper.operations.lifecycle.policies import effect_of
    from reelkeeper.operations.lifecycle.previews import failed_checks, plans_service_keys
    from reelkeeper.rules.billing.pricing import within_allowance

    effect = effect_of(engine, after, service_keys=plans_service_keys(engine, configured()))
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
            *([("no longer compressed", f"{left:,}", "")] if (left := effect.no_longer_compressed) else []),
            ("live videos", f"{effect.live.objects:,}", size(effect.live.size_bytes)),
        ],
    )
    once = "once the grace is over"
    if effect.newly_compressed or effect.no_longer_compressed:
        once += " and results are as small as expected"
    much, which = dollars(abs(saved)) if saved else LEAST, "less" if effect.saved_bytes > 0 else "more"
    say(f"Storage costs {f'{much} a month {which}, {once}' if effect.saved_bytes else 'the same'}.")
    if effect.unknown_views:
        say(_unwatched(effect))
    if effect.left_untested:
        gate = contract_gate(failed_checks(engine, configured()))
        say(f"{many(effect.left_untested, 'video')} that these policies would retire or compress stay: {gate}.")
    if effect.live.objects and (free := within_allowance(effect.stored_bytes)):
        say(free)
    if after.links != effect.before.policies.links:
        say(f"Links: {after.links}")
    for promise in effect.broken_promises():
        say(f"Reduced promise to users: {promise}.")
    return effect


def _unwatched(effect: "Effect") -> str:
    from reelkeeper.model import Action

    before, then = (
        f"retire {effect.unwatched[after, Action.RETIRE]:,} and compress {effect.unwatched[after, Action.COMPRESS]:,}"
        for after in (False, True)
    )
    return (
        f"{many(effect.unknown_views, 'video')} of unknown views count as kept here, as no rule for cold videos acts "
        f"on them. Had nobody viewed them, these policies would {then} of them; those in force {before}."
    )


def put_in_force(engine: "Engine", after: "Policies", reason: str, *, yes: bool) -> None:
    """Show a document's effects, check it against the limits, ask for confirmation, and apply it."""
    from reelkeeper.operations.lifecycle.policies import apply as operation

    effect = _effect(engine, after)
    if not effect.changes:
        say("Nothing to apply: these policies are in force already.")
        return
    effect.require_no_users_left()
    effect.require_within_limits()
    if not yes:
        typer.confirm("Apply these policies?", abort=True)
    version = operation(engine, effect, author=who(), reason=reason)
    say(f"Version {version} is in force. To undo: reelkeeper policy rollback {version - 1} --reason ...")


def _show_changes(changes: dict[str, tuple[object, object]], before: str, after: str) -> None:
    from reelkeeper.operations.core.policy_document import shown

    if not changes:
        say("No field differs.")
        return
    table(
        ("!field", before, after),
        [(name, shown(name, was), shown(name, then)) for name, (was, then) in changes.items()],
    )
