"""`restore`: bring back what was retired, and take back swaps."""

from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, workspace
from reelkeeper.cli.screen import emit, say, size, table
from reelkeeper.cli.words import new_run_id, who
from reelkeeper.errors import NotFound, PartialFailure

if TYPE_CHECKING:
    from sqlalchemy import Engine

_BATCH = 500
_NAMED = 5  # runs, where several begin alike


def restore(
    run: Annotated[
        str | None,
        typer.Option(help="Everything that this run retired or swapped; the first characters of its id suffice."),
    ] = None,
    video: Annotated[str | None, typer.Option(help="One video: its retirement, or its last swap.")] = None,
    user: Annotated[str | None, typer.Option(help="All retired or lost videos of a user.")] = None,
    hold_days: Annotated[
        int,
        typer.Option(min=0, help="How long restored videos are held; without, the next run would retire them again."),
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be restored.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Bring videos back, at once, until their bytes are purged. Works while changes are frozen."""
    if sum(map(bool, (run, video, user))) != 1:
        raise typer.BadParameter("give one of --run, --video and --user")
    from reelkeeper.operations.lifecycle import restore as operation
    from reelkeeper.operations.lifecycle.purge import settle_claims

    run_id = new_run_id("restore")
    with workspace() as opened:
        grace = opened.in_force.policies.lifecycle.grace
        run = _whole(opened.engine, run) if run else None
        if not dry_run:
            settle_claims(opened, run_id=run_id, grace=grace)  # what a killed purge had claimed and not deleted
        found = operation.find_restorable(opened, run_id=run, video_id=video, user_id=user)
        if dry_run:
            if as_json:
                emit(found)
            else:
                table(
                    ("!video", "!user", "state", ">bytes", "!key"),
                    [(blob.video_id, blob.user_id, blob.state, size(blob.size_bytes), blob.key) for blob in found],
                )
                say(f"{len(found):,} would come back; nothing was changed.")
            return
        outcomes = [
            outcome
            for start in range(0, len(found), _BATCH)
            for outcome in operation.restore(
                opened,
                found[start : start + _BATCH],
                run_id=run_id,
                author=who(),
                grace=grace,
                hold_days=hold_days,
                scratch=configured().scratch,
            )
        ]
    restored = [outcome for outcome in outcomes if outcome.action == "restored"]
    if as_json:
        emit({"run_id": run_id, "outcomes": outcomes})
    else:
        rows = [
            (outcome.video_id, outcome.action, size(outcome.after_bytes or None), outcome.reason)
            for outcome in outcomes
        ]
        table(("!video", "became", ">bytes", "why"), rows)
        held = f", held for {hold_days} days" if hold_days else ""
        say(f"{len(restored):,} of {len(outcomes):,} are back{held}.")
    if len(restored) < len(outcomes):
        raise PartialFailure(f"{len(outcomes) - len(restored):,} of {len(outcomes):,} videos were not restored")


def _whole(engine: "Engine", run: str) -> str:
    """Give the id of the one run that begins like this. Raises NotFound where there is none."""
    from reelkeeper.store.core.audit import runs_beginning_with
    from reelkeeper.store.core.engine import reading

    with reading(engine) as session:
        found = runs_beginning_with(session, run, limit=_NAMED)
    if not found:
        raise NotFound(f"no such run: {run!r} has changed nothing, ever. What runs did: reelkeeper audit")
    if len(found) > 1:
        raise typer.BadParameter(f"{run!r} begins several runs: {', '.join(found)}", param_hint="--run")
    return found[0]
