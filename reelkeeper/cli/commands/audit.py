"""`audit`: show what was done to whose data and by which run, and verify that record."""

from typing import Annotated, Any

import typer

from reelkeeper.cli.opening import reading
from reelkeeper.cli.screen import listing, respond
from reelkeeper.cli.words import AsJson, Limit
from reelkeeper.rules.core.wording import many

group = typer.Typer(help="Read the audit record, or verify it.", invoke_without_command=True)


@group.callback()
def audit(
    ctx: typer.Context,
    video: Annotated[str | None, typer.Option(help="Only events of this video.")] = None,
    run: Annotated[str | None, typer.Option(help="Only events of this run.")] = None,
    user: Annotated[str | None, typer.Option(help="Only events of this user's videos.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Show the record of all changes to customers' data, newest first."""
    if ctx.invoked_subcommand:
        return
    from reelkeeper.store.core.audit import events

    with reading() as session:
        found = list(events(session, video_id=video, run_id=run, user_id=user, limit=limit))
    headings = (">no.", "!at", "!event", "!video", "!run", "detail")
    cells = ("id", "at", "event.event", "event.video_id", "event.run_id", _detail)
    listing(found, headings, cells, as_json=as_json)


def _detail(record: Any) -> str:  # noqa: ANN401  of the record, which is not loaded yet
    return ", ".join(f"{name}={value}" for name, value in record.event.detail.items() if value is not None)


@group.command()
def verify(as_json: AsJson = False) -> None:
    """Check that no event was changed, removed or added. Otherwise exit with 5, and name the first bad event."""
    from reelkeeper.store.core.audit import verify as verify_chain
    from reelkeeper.store.core.schema import deployment

    with reading() as session:
        count, head = verify_chain(session), deployment(session).audit_head
    text = f"{many(count, 'event')}, all unchanged. Keep this hash elsewhere for later comparison: {head or 'none'}"
    respond(text, {"events": count, "head": head}, as_json=as_json)
