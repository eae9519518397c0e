"""`doctor`: is everything there, and what to do where it is not."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import emit, out, say
from reelkeeper.errors import Misconfigured

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    claim: Annotated[
        bool, typer.Option("--claim", help="Write this store's identity into a bucket that has none.")
    ] = False,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract", help="Try all that Reelkeeper relies on in the bucket, in a scratch prefix: 1 minute."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Look at every part, and say what to do about each that is not well. Exit code 0 if nothing fails."""
    from reelkeeper.operations.health.doctor import FAIL, Finding, examine

    findings: list[Finding] = []
    try:
        settings = configured()
    except Misconfigured as error:
        findings.append(Finding("settings", FAIL, str(error), "correct the environment, or .env in this folder"))
    else:
        for finding in examine(settings, claim=claim, contract=contract):
            findings.append(finding)
            if not as_json:
                _show(finding)
    failed = [finding.part for finding in findings if finding.state == FAIL]
    if as_json:
        emit(findings)
    elif failed == ["settings"]:
        _show(findings[0])
    if not as_json:
        say(f"{len(failed)} of {len(findings)} parts failed." if failed else "Nothing fails.")
    if failed:
        raise typer.Exit(1)


def _show(finding: "object") -> None:
    part, state, found, remedy = (getattr(finding, name) for name in ("part", "state", "found", "remedy"))
    colour = _COLOURS[state]
    out.print(f"[{colour}]{state:<4}[/]  [bold]{part:<14}[/]", end=" ")
    out.print(found, markup=False)
    if remedy:
        out.print(f"{'':<21} -> {remedy}", markup=False)
