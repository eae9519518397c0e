"""`users`: export, erase or rename a user, with all data."""

from pathlib import Path
from typing import Annotated

import typer

from reelkeeper.cli.commands.takedown import show_vendors
from reelkeeper.cli.opening import configured, reading, store, workspace
from reelkeeper.cli.screen import emit, listing, say, size, table
from reelkeeper.cli.words import AsJson, new_run_id, who
from reelkeeper.errors import Misconfigured, PartialFailure
from reelkeeper.rules.core.wording import many

group = typer.Typer(help="Export, erase or rename a user.", no_args_is_help=True)


@group.command()
def export(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The ZIP file to create; it must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write all data of a user to a ZIP file, without videos that were taken down.

    It has rows, videos, the images that jobs began with, and files beside the videos by name, such as thumbnails.
    """
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
        counts = f"{many(done.videos, 'video')}, {many(done.beside, 'file')} beside them, {many(done.images, 'image')}"
        say(f"{done.path}: {size(done.size_bytes)}, {counts}.")
    if done.missing:
        raise PartialFailure(f"left out, as they could not be read: {'; '.join(done.missing)}")


@group.command()
def erase(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a user: permanently delete videos, images, prompts and names now.

    Files of the service's beside the videos, such as thumbnails, stay: the service deletes them. Ledger and audit keep
    amounts under a pseudonym that cannot be traced back. Safe to repeat: exit code 6 while
    something is left, with what keeps it and until when. Nightly backups end by themselves; deleting others is up to
    you: see docs/erasure.md.
    """
    from reelkeeper.operations.removals.erase import erase as operation

    if not yes:
        typer.confirm(f"Permanently delete all data of {user} now?", abort=True, err=True)
    with workspace() as opened:
        done = operation(opened, user, by=who(), run_id=new_run_id("erase"), settings=configured())
    if as_json:
        lists = {name: [item._asdict() for item in getattr(done, name)] for name in ("left", "vendors")}
        emit({**done._asdict(), "until": done.until, **lists})
    elif done.left:
        table(("key", "!until", "still there, because"), [(item.key, item.until, item.why) for item in done.left])
    else:
        table(("!data", ">rows"), [(name, f"{count:,}") for name, count in done.rows.items()])
        say(
            f"Erased. The ledger and {many(done.events, 'audit event')} now name {done.pseudonym}: "
            "reelkeeper audit verify"
        )
        if done.versions:
            say(f"But {done.versions}. Delete every version of the user's keys at the server.")
    if not as_json:
        show_vendors(done.vendors)
    if done.left:
        raise PartialFailure(
            f"{many(len(done.left), 'item')} left; repeat the command when nothing keeps them any more"
        )


@group.command()
def rename(
    before: Annotated[str, typer.Argument(metavar="OLD", help="The id in the catalogue.")],
    after: Annotated[str, typer.Argument(metavar="NEW", help="The id that the service has; it may exist.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only show what would move.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rename a user, or merge two rows of one user: videos, credits, quota, jobs, holds and everything else.

    Keys stay as they are. The old id still finds the user, and an erasure looks for it, too.
    """
    from reelkeeper.operations.billing.users import rename as operation

    with store() as engine:
        done = operation(engine, before, after, by=who(), apply=apply)
    if as_json:
        emit(done)
        return
    table(("!data", ">rows"), [(name, f"{count:,}") for name, count in done.rows.items()])
    joins = " and joins what it has" if done.joined else ""
    say(f"{before} is {after} now." if done.is_done else f"{before} becomes {after}{joins}. To do it: add --apply")
    if done.in_policies:
        say(f"The policies in force have limits for user:{before}, none for {after}: reelkeeper policy apply")


@group.command()
def erasing(as_json: AsJson = False) -> None:
    """List the users whose erasure is not complete, the oldest first: `users erase` continues it."""
    from reelkeeper.store.removals.erasures import unfinished

    with reading() as session:
        found = unfinished(session)
    listing(found, ["!user"], [str], as_json=as_json)
