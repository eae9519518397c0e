"""`db`: upgrade the store's schema, back up, restore, move and adopt the store, and show its state."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, respond, say, size, table
from reelkeeper.cli.words import AsJson, who
from reelkeeper.disk import make_folder
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.operations.core.adopt_store import Behind

group = typer.Typer(help="Upgrade, back up, restore, move and adopt the store.", no_args_is_help=True)


@group.command()
def upgrade(as_json: AsJson = False) -> None:
    """Upgrade the store's schema to this version. A SQLite file is first copied to a file beside it."""
    from reelkeeper.store.core import schema

    applied = schema.upgrade_at(configured().store_url)
    text = "\n".join(f"Applied {name}" for name in applied) or f"The store is already at {schema.head()}."
    respond(text, {"applied": applied, "schema": schema.head()}, as_json=as_json)


@group.command()
def backup(
    target: Annotated[
        str, typer.Argument(help="The file to create, or a folder for it; one that ends in / is created.")
    ],
    as_json: AsJson = False,
) -> None:
    """Back up the store, which may be in use."""
    from reelkeeper.store.core.backup import backup as copy

    with store() as engine:
        made = copy(engine, make_folder(Path(target)) if target.endswith("/") else Path(target))
    text = f"The store was backed up to {made}, {made.stat().st_size:,} bytes; its checksum is beside it."
    respond(text, {"backup": made, "size_bytes": made.stat().st_size}, as_json=as_json)


@group.command()
def restore(
    source: Annotated[
        str | None,
        typer.Argument(help="A file that `db backup` made, or the name of a nightly backup; by default the newest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Restore a verified backup into an empty store. Changes stay frozen until it was compared with the bucket."""
    from reelkeeper.operations.health import backups
    from reelkeeper.store.core.backup import restore as fill

    settings = configured()
    with backups.found(settings, source) as path:
        fill(settings.store_url, path)
    respond(
        f"The store is restored from {path.name}. It does not know later changes, so changes are frozen. Next:\n"
        "  reelkeeper run sync_catalog    compares it with the bucket and changes nothing\n"
        "  reelkeeper db adopt            shows later restores and holds, starts all graces anew, and allows changes",
        {"restored": path.name, "frozen": True},
        as_json=as_json,
    )


@group.command()
def move(
    to: Annotated[
        str,
        typer.Option(
            help="An empty database: postgresql+psycopg://USER@HOST/DATABASE, with the password in ~/.pgpass, or "
            "sqlite:///FILE."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Move the store to another database, from SQLite to PostgreSQL or back. Stop all that uses it first.

    All rows are compared, and the audit record is verified. The old store stays as it is and changes nothing any more;
    the new one works once the move has ended. After a kill or an error, run it again: it goes on where it was.
    """
    from reelkeeper.store.core.move import move as bring

    def tell(table: str, copied: int) -> None:
        if not as_json:
            say(f"{table:20} {many(copied, 'row')}")

    with store() as engine:
        rows = bring(engine, to, by=who(), tell=tell)
    respond(
        f"Moved and compared: {many(sum(rows.values()), 'row')}. Set REELKEEPER_DATABASE_URL to the new place wherever "
        "Reelkeeper runs, then start it again. Keep the old store until you have seen the new one at work.",
        {"rows": rows},
        as_json=as_json,
    )


@group.command()
def adopt(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a store that was restored, copied or moved: until then it purges, takes down and erases nothing.

    It shows the restores and holds that the bucket tells of, holds these videos for 30 days, and starts every grace
    anew. Other copies of the store are stopped by it.
    """
    from reelkeeper.cli.opening import workspace
    from reelkeeper.operations.core import adopt_store as operation
    from reelkeeper.operations.core import epochs

    with workspace() as opened:
        seen = operation.look(opened)
        if seen.why is None:
            epochs.tell(opened)  # an adoption that was killed before it told the bucket
            respond("This store knows all that was done to its bucket: nothing is to be adopted.", {}, as_json=as_json)
            return
        if not as_json:
            _show(seen)
        if not yes:
            typer.confirm("Go on with this store, and stop every other copy of it?", abort=True, err=True)
        graces = operation.adopt(opened, seen, by=who())
    text = f"Adopted. Waiting out a new grace: {many(graces, 'retired object')}."
    respond(text, {"why": seen.why, "told": [told._asdict() for told in seen.told], "graces": graces}, as_json=as_json)


def _show(seen: "Behind") -> None:
    say(f"Behind: {seen.why}.")
    rows = [
        (
            told.kind + (", legal" if told.is_legal else ""),
            told.number,
            ", ".join((*told.videos, *told.users)) or "-",
            told.unknown,
            told.until,
        )
        for told in seen.told
    ]
    table(("what", ">number", "!video or user", ">not in this store", "!until"), rows)
    say(f"Restores and holds in the bucket that this store does not know: {len(seen.told):,}, held for 30 days.")
    say(f"Without a new grace, {many(seen.due.objects, 'object')} of {size(seen.due.size_bytes)} could be purged now.")


@group.command()
def status(as_json: AsJson = False) -> None:
    """Show the store's location, schema and contents, and whether changes are frozen."""
    from reelkeeper.operations import reading
    from reelkeeper.operations.core import epochs
    from reelkeeper.operations.core.freeze import why_frozen
    from reelkeeper.store.core import schema
    from reelkeeper.store.videos.videos import population, videos_by_state

    with store() as engine:
        with reading(engine) as session:
            row, live, states = schema.deployment(session), population(session), videos_by_state(session)
            facts = {
                "store": engine.url.render_as_string(hide_password=True),
                "schema": schema.head(),
                "deployment": row.id,
                "live_bytes": live.size_bytes,
                "videos": states,
                "audit_events": row.audit_events,
                "audit_head": row.audit_head,
            }
        facts["frozen"], facts["behind"] = why_frozen(engine), epochs.why_behind(engine, None)
    if as_json:
        emit(facts)
        return
    say(f"Store       {facts['store']}, schema {facts['schema']}, deployment {facts['deployment']}")
    listed = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
    say(f"Videos      {listed or 'none'}; {live.size_bytes:,} bytes live")
    say(f"Audit       {many(row.audit_events, 'event')}")
    say(f"Changes     {facts['frozen'] or 'allowed'}")
    say(f"Deletions   {facts['behind'] or 'allowed'}")
