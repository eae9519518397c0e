"""`users`: export, erase or rename a user, with all data."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.commands.takedown import show_vendors
from reelkeeper.cli.opening import configured, reading, store, workspace
from reelkeeper.cli.screen import emit, listing, say, size, table
from reelkeeper.cli.words import AsJson, new_run_id, who
from reelkeeper.errors import Misconfigured, PartialFailure
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.operations.removals.erase import Erasure, Foreseen
    from reelkeeper.operations.videos.service_files import ServiceFile

_UNKNOWN = "The server does not list unfinished uploads: any in the user's folder stay stored."
group = typer.Typer(help="Export, erase or rename a user.", no_args_is_help=True)


@group.command()
def export(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The ZIP file to create; it must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write all data of a user to a ZIP file, without videos that were taken down.

    It has rows, videos, the images that jobs began with, and the service's own files that are the user's by the key
    patterns, or beside a video by name, such as thumbnails.
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
        counts = (
            f"{many(done.videos, 'video')}, {many(done.beside, 'file')} of the service's, {many(done.images, 'image')}"
        )
        say(f"{done.path}: {size(done.size_bytes)}, {counts}.")
        if done.left_out:
            say(
                "Left out, as nothing but the folder says whose they are, or as their upload was never completed: "
                f"{many(len(done.left_out), 'file')}, such as {done.left_out[0]}. All of them: --json"
            )
    if done.missing:
        raise PartialFailure(f"left out, as they could not be read: {'; '.join(done.missing)}")


@group.command()
def erase(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    with_files: Annotated[
        bool, typer.Option("--with-files", help="Delete the service's own files in the user's folder, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a user: permanently delete videos, images, prompts and names now.

    Files of the service's own under the user's keys, such as thumbnails, are listed and stay, unless you add
    --with-files. Ledger and audit keep amounts under a pseudonym that cannot be traced back. Exit code 6 while
    something is left, with what keeps it and until when: repeat it then. Once all is erased, the user is unknown, as
    one who never was: exit code 8. Nightly backups end by themselves; deleting others is up to you: see
    docs/erasure.md. In a trial it only says what it would delete, and is refused: exit code 9.
    """
    from reelkeeper.operations.removals import erase as operation

    with workspace() as opened:
        if opened.on_trial:
            _foretell(user, operation.foresee(opened, user), with_files=with_files, as_json=as_json)
            opened.require_live()
        if not yes:
            staying, deleted = _foreseen(user, operation.foresee(opened, user), with_files=with_files)
            typer.confirm(f"{staying}Permanently delete {deleted} now?", abort=True, err=True)
        run_id = new_run_id("erase")
        done = operation.erase(opened, user, by=who(), run_id=run_id, settings=configured(), with_files=with_files)
    if as_json:
        lists = {name: [item._asdict() for item in getattr(done, name)] for name in ("left", "vendors")}
        emit({**done._asdict(), "until": done.until, **lists, "files": _plain(done.files)})
    else:
        _show(done)
    if done.left:
        raise PartialFailure(
            f"{many(len(done.left), 'item')} left; repeat the command when nothing keeps them any more"
        )


def _show(done: "Erasure") -> None:
    if done.left:
        table(("key", "!until", "still there, because"), [(item.key, item.until, item.why) for item in done.left])
    else:
        table(("!data", ">rows"), [(name, f"{count:,}") for name, count in done.rows.items()])
        say(
            f"Erased. The ledger and {many(done.events, 'audit event')} now name {done.pseudonym}: "
            "reelkeeper audit verify"
        )
        if done.versions:
            say(f"But {done.versions}. Delete every version of the user's keys at the server.")
    show_vendors(done.vendors)
    if done.files_deleted:
        say(f"Deleted, too: {many(done.files_deleted, 'file')} of the service's.")
    if done.uploads_unknown:
        say(_UNKNOWN)
    if done.files:
        _list(done.files)
        way = "Repeat with --with-files, or delete" if done.left else "The user's id finds them no more, so delete"
        say(f"Not deleted: {_files(done.files)}, as listed. {way} them by these keys, with any S3 client.")


def _foretell(user: str, found: "Foreseen", *, with_files: bool, as_json: bool) -> None:
    """Show in a trial what an erasure would delete, and what would stay."""
    if as_json:
        emit({**found._asdict(), "files": _plain(found.files)})
        return
    if found.files:
        _list(found.files)
    staying, deleted = _foreseen(user, found, with_files=with_files)
    say(f"{staying}Once live, this would permanently delete {deleted}.")


def _foreseen(user: str, found: "Foreseen", *, with_files: bool) -> tuple[str, str]:
    """Describe what would stay, in lines, and what would be deleted."""
    stored = f"{many(found.videos, 'video')} ({many(found.objects, 'object')}, {size(found.size_bytes)})"
    theirs = [file for file in found.files if file.is_deletable]
    kept = [file for file in found.files if not (with_files and file.is_deletable)]
    and_files = f", {_files(theirs)}," if theirs and with_files else ""
    staying = ""
    if kept:
        way = f"; --with-files deletes {_deleted(len(theirs), len(kept))}" if theirs and not with_files else ""
        first = kept[0].key if len(kept) == 1 else f"such as {kept[0].key}"
        staying = f"{_files(kept)}, {first}, will stay stored{way}.\n"
    staying += f"{_UNKNOWN}\n" if found.uploads_unknown else ""
    return staying, f"{stored}{and_files} and all other data of {user}"


def _plain(files: "Sequence[ServiceFile]") -> list[dict[str, object]]:
    return [{name: getattr(file, name) for name in ("key", "size_bytes", "by", "upload_id")} for file in files]


def _list(files: "Sequence[ServiceFile]") -> None:
    by = [file.by + ", unfinished upload" * bool(file.upload_id) for file in files]
    rows = [(file.key, size(file.size_bytes), how) for file, how in zip(files, by, strict=True)]
    table(("key", ">bytes", "!the user's by"), rows)


def _deleted(theirs: int, kept: int) -> str:
    if theirs == kept:
        return "it" if kept == 1 else "them"
    return f"{theirs:,} of them, {'that' if theirs == 1 else 'those'} in the user's folder by the key patterns"


def _files(files: "Sequence[ServiceFile]") -> str:
    return f"{many(len(files), 'file')} of the service's own ({size(sum(file.size_bytes for file in files))})"


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
