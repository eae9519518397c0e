"""`users`: what a user may ask of a service: a copy of all their data, and that nothing of it is left."""

from pathlib import Path
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, store, workspace
from reelkeeper.cli.screen import emit, say, size, table
from reelkeeper.cli.words import AsJson, new_run_id, who
from reelkeeper.errors import Misconfigured, PartialFailure

group = typer.Typer(help="Export or erase a user's data on request.", no_args_is_help=True)


@group.command()
def export(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The ZIP to write; it must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write all data of a user to one ZIP: rows, videos and images. What was taken down is left out."""
    from reelkeeper.operations.videos.export import export as operation

    with workspace() as opened:
        try:
            done = operation(opened, user, to)
        except FileExistsError as error:
            raise Misconfigured(str(error)) from None
    if as_json:
        emit(done)
    else:
        table(("!data", ">rows"), [(name, f"{count:,}") for name, count in done.rows.items() if count])
        say(f"{done.path}: {size(done.size_bytes)}, {done.videos:,} videos, {done.images:,} images.")
    if done.missing:
        raise PartialFailure(f"left out, since they could not be read: {'; '.join(done.missing)}")


@group.command()
def erase(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a user: videos, images, prompts and names go now, for good.

    The books and the audit keep amounts, under a pseudonym that nothing leads back from. Safe to repeat: ends with 6
    while something is left, and says what keeps it and until when. Backups are yours to delete: see docs/erasure.md.
    """
    from reelkeeper.operations.jobs.settle import cancel
    from reelkeeper.operations.removals.erase import erase as operation

    if not yes:
        typer.confirm(f"Delete all that is stored of {user} now, for good?", abort=True, err=True)
    with workspace() as opened:
        done = operation(opened, user, by=who(), run_id=new_run_id("erase"), cancel=cancel, settings=configured())
    if as_json:
        emit({**done._asdict(), "until": done.until, "left": [item._asdict() for item in done.left]})
    elif done.left:
        table(("key", "!until", "still there, because"), [(item.key, item.until, item.why) for item in done.left])
    else:
        table(("!data", ">rows"), [(name, f"{count:,}") for name, count in done.rows.items()])
        say(f"Erased. The books and {done.events:,} events of the audit name {done.pseudonym}: reelkeeper audit verify")
    if done.left:
        raise PartialFailure(f"{len(done.left):,} things are left; repeat the command when they are over")


@group.command()
def erasing(as_json: AsJson = False) -> None:
    """List the users whose erasure is under way, the longest first: `users erase` goes on with each."""
    from reelkeeper.store.core.engine import reading
    from reelkeeper.store.removals.erasures import unfinished

    with store() as engine, reading(engine) as session:
        found = unfinished(session)
    if as_json:
        emit(found)
    else:
        table(("!user",), [(user,) for user in found])
