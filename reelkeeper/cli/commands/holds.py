"""`hold`, `freeze`, `thaw`: override all rules by hand, to keep videos or stop changes."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, reading, store, workspace
from reelkeeper.cli.screen import listing, respond
from reelkeeper.cli.words import AsJson, moment, not_blank, who

_TELL_SECONDS = 8  # of which the embedded server takes two to start


def hold(
    user: Annotated[str | None, typer.Option(help="Keep all videos of this user.")] = None,
    video: Annotated[str | None, typer.Option(help="Keep this video.")] = None,
    reason: Annotated[str | None, typer.Option(callback=not_blank, help="The reason, for the audit record.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="When it expires; UTC without a time zone.")] = None,
    legal: Annotated[
        bool,
        typer.Option("--legal", help="Place a legal hold, which also keeps the bytes of videos that are taken down."),
    ] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the holds in force.")] = False,
    release: Annotated[str | None, typer.Option(metavar="ID", help="End this hold.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep one video or all videos of a user, whatever the rules say."""
    if sum(map(bool, (user, video, list_all, release))) != 1:
        raise typer.BadParameter("give one of --user, --video, --list and --release")
    if list_all:
        _list(as_json=as_json)
        return
    from reelkeeper.operations.videos import hold as operation

    if release:
        with store() as engine:
            operation.release(engine, release, author=who())
        respond(f"Hold {release} is released.", {"released": release}, as_json=as_json)
        return
    if not reason:
        raise typer.BadParameter("a hold needs --reason")
    from reelkeeper.store.videos.holds import HoldTerms

    scope, subject = ("user", user) if user else ("video", video)
    with store() as engine:
        placed = operation.hold(engine, HoldTerms(scope, str(subject), reason, who(), moment(until), legal))
    from reelkeeper.operations.core.workspace import trial_at

    on_trial = trial_at(configured()) is not None
    told = on_trial or _tell()
    text = f"{scope} {subject} is held by {placed.id}" + (f" until {until}." if until else " until it is released.")
    if placed.too_late:
        text += f" Too late for {placed.too_late:,} of its objects: already deleted, or being purged."
    if on_trial:
        text += " It is in the store: a trial writes nothing to the bucket."
    if not told:
        text += " The bucket could not be told yet, so a copy or an old backup of this store would not know it."
    respond(text, placed, as_json=as_json)


def freeze(
    reason: Annotated[
        str, typer.Option(callback=not_blank, help="The reason, shown to everybody whose change is refused.")
    ],
    as_json: AsJson = False,
) -> None:
    """Freeze all changes; running flows stop within one batch."""
    from reelkeeper.operations.core import freeze as operation

    with store() as engine:
        operation.freeze(engine, by=who(), reason=reason)
        why = operation.why_frozen(engine)
    respond(f"Changes are frozen: {why}", {"frozen": why}, as_json=as_json)


def thaw(as_json: AsJson = False) -> None:
    """Allow changes again."""
    from reelkeeper.operations.core import freeze as operation

    with store() as engine:
        was = operation.thaw(engine, by=who())
    text = "Nothing was frozen." if was is None else f"Changes are allowed again. They were frozen because: {was}"
    respond(text, {"was": was}, as_json=as_json)


def _tell() -> bool:
    """Put the hold's announcement into the bucket, for other copies of the store; a later run repeats what fails.

    Not for longer than some seconds: the hold is in force, and a bucket that is away takes 40 s to be given up.
    """
    import threading

    from reelkeeper.errors import ReelkeeperError
    from reelkeeper.operations.core import epochs

    told = threading.Event()

    def put() -> None:
        try:
            with workspace() as opened:
                if epochs.tell(opened):
                    told.set()
        except ReelkeeperError:
            return

    thread = threading.Thread(target=put, name="tell", daemon=True)
    thread.start()
    thread.join(_TELL_SECONDS)
    return told.is_set()


def _list(*, as_json: bool) -> None:
    from reelkeeper.store.videos import holds

    with reading() as session:
        lines = holds.in_force(session)
    headings = ("!hold", "scope", "!subject", "reason", "by", "!since", "!until", "legal")
    cells = (
        "id",
        "scope",
        "subject",
        "reason",
        "author",
        "created_at",
        lambda line: line.expires_at or "released",
        lambda line: "yes" if line.is_legal else "",
    )
    listing(lines, headings, cells, as_json=as_json, otherwise="No hold is in force.")
