"""`restore`: bring back retired videos, and undo swaps."""

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, workspace
from reelkeeper.cli.screen import emit, say, size, table
from reelkeeper.cli.words import new_run_id, who
from reelkeeper.errors import NotFound, PartialFailure, Refused
from reelkeeper.model import Outcome
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.operations import Engine
    from reelkeeper.operations.lifecycle.restore import Restorer

_NAMED = 5  # runs to list if an id is ambiguous


def restore(
    run: Annotated[
        str | None,
        typer.Option(help="Everything that this run retired or swapped; the first characters of its id are enough."),
    ] = None,
    video: Annotated[str | None, typer.Option(help="One video: its retirement, or its last swap.")] = None,
    user: Annotated[str | None, typer.Option(help="All retired or lost videos of a user.")] = None,
    hold_days: Annotated[
        int,
        typer.Option(min=0, help="Days to hold restored videos, so that the next run does not retire them again."),
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be restored.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Restore videos at once, as long as their bytes are not purged. Works while changes are frozen."""
    if sum(map(bool, (run, video, user))) != 1:
        raise typer.BadParameter("give one of --run, --video and --user")
    from reelkeeper.operations.core.either_id import present_user
    from reelkeeper.operations.lifecycle import restore as operation
    from reelkeeper.operations.lifecycle.purge import settle_claims

    run_id = new_run_id("restore")
    with workspace() as opened:
        user = user and present_user(opened.engine, user)
        grace = opened.in_force.policies.lifecycle.grace
        run = _full_run_id(opened.engine, run) if run else None
        if not dry_run:
            settle_claims(opened, run_id=run_id, grace=grace)  # of blobs that a killed purge claimed but did not delete
        found = operation.find_restorable(opened, run_id=run, video_id=video, user_id=user)
        claimed = operation.find_claimed(opened, run_id=run, video_id=video, user_id=user)
        if dry_run:
            if as_json:
                emit({"restorable": found, "claimed": claimed})
            else:
                table(
                    ("!video", "!user", "state", ">bytes", "!key"),
                    [(blob.video_id, blob.user_id, blob.state, size(blob.size_bytes), blob.key) for blob in found],
                )
                if claimed:
                    table(("!claimed", "why"), [(outcome.video_id, outcome.reason) for outcome in claimed])
                waits = f", {len(claimed):,} not yet" if claimed else ""
                say(f"{len(found):,} would be restored{waits}; nothing was changed.")
            return
        outcomes = list[Outcome]()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as after Ctrl-C, with a report
        by = operation.Restorer(run_id, who(), grace, hold_days, configured().scratch)
        try:
            operation.restore_each(opened, found, by, outcomes)
        except Refused as error:
            # guard restore.in_part: videos are restored, and a script is told that nothing was changed
            if not _restored(outcomes):
                raise
            raise PartialFailure(f"{_unrestored(outcomes)}: {error}") from None
        # guard restore.reported: after an error, nobody is told which videos are restored, and which are not
        finally:
            signal.signal(signal.SIGTERM, before)
            outcomes += claimed
            if outcomes:
                _report(outcomes, by, as_json=as_json)
    if _restored(outcomes) < len(outcomes):
        raise PartialFailure(_unrestored(outcomes))


def _report(outcomes: "Sequence[Outcome]", by: "Restorer", *, as_json: bool) -> None:
    if as_json:
        emit({"run_id": by.run_id, "outcomes": outcomes})
        return
    rows = [
        (outcome.video_id, outcome.action.replace("_", " "), size(outcome.after_bytes or None), outcome.reason)
        for outcome in outcomes
    ]
    table(("!video", "became", ">bytes", "why"), rows)
    held = f", held for {many(by.hold_days, 'day')}" if by.hold_days else ""
    say(f"{_restored(outcomes):,} of {len(outcomes):,} are restored{held}.")


def _restored(outcomes: "Sequence[Outcome]") -> int:
    return sum(outcome.action == "restored" for outcome in outcomes)


def _unrestored(outcomes: "Sequence[Outcome]") -> str:
    return f"not restored: {len(outcomes) - _restored(outcomes):,} of {many(len(outcomes), 'video')}"


def _full_run_id(engine: "Engine", run: str) -> str:
    """Return the id of the only run that begins with this text. Raises NotFound if there is none."""
    from reelkeeper.operations import reading
    from reelkeeper.store.core.audit import runs_beginning_with

    with reading(engine) as session:
        found = runs_beginning_with(session, run, limit=_NAMED)
    if not found:
        raise NotFound(f"no run {run!r} has changed anything. To list changes by run: reelkeeper audit")
    if len(found) > 1:
        raise typer.BadParameter(f"{run!r} is ambiguous: it is the beginning of {', '.join(found)}", param_hint="--run")
    return found[0]
