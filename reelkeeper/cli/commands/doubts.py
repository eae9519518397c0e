"""`doubts`: list objects that are not as recorded, and settle them."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import reading, workspace
from reelkeeper.cli.screen import emit, respond, say, size
from reelkeeper.cli.words import MAX_NUMBER, AsJson, new_run_id, who
from reelkeeper.model import SettledAs

group = typer.Typer(help="List objects that are not as recorded, and settle each.", invoke_without_command=True)


@group.callback()
def doubts(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the objects at keys of ours that are not as recorded: what was expected, what is stored, since when.

    No purge touches them. A doubt ends by itself where `sync_catalog --apply` finds the recorded bytes.
    """
    if ctx.invoked_subcommand:
        return
    from reelkeeper.store.lifecycle.doubts import listed

    with reading() as session:
        found = listed(session)
    if as_json:
        emit(found)
        return
    if not found:
        say("No object is in doubt.")
        return
    for item in found:
        say(f"{item.id}: {item.key}, {item.state}, of {item.video_id or 'no video'}, since {item.since:%Y-%m-%d %H:%M}")
        say(f"  expected: {_described(item.expected_bytes, item.expected_etag, item.expected_sha256)}")
        say(f"  stored:   {_described(item.found_bytes, item.found_etag, item.found_sha256)}")
    say("Settle one: reelkeeper doubts settle ID --as stored (the stored object becomes the record) or --as lost.")


@group.command()
def settle(
    doubt_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_NUMBER, help="The doubt, as listed.")],
    how: Annotated[
        SettledAs,
        typer.Option(
            "--as",
            help="`stored`: the stored object becomes the record, and is shown, or purged after a new grace, as that "
            "was. `lost`: the recorded bytes are lost, with the video that shows them; the object stays for ever.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Settle a doubt by what is stored. It works while changes are frozen.

    Refused where the blob or the object has changed since the last look, which `reelkeeper doubts` shows.
    """
    from reelkeeper.operations.videos import doubts as operation

    with workspace() as opened:
        doubt = operation.find(opened, doubt_id)
        if not yes:
            stored = _described(doubt.found_bytes, doubt.found_etag, doubt.found_sha256)
            effect = "record what is stored" if how is SettledAs.STORED else "give up the recorded bytes"
            typer.confirm(f"{doubt.key}, stored: {stored}. Really {effect}?", abort=True, err=True)
        done = operation.settle(opened, doubt, how, author=who(), run_id=new_run_id("doubts"))
    text = f"{done.doubt.key} is settled as {done.settled_as}; {done.left:,} left."
    if done.frozen:
        text += f" Changes are {done.frozen}"
    respond(text, done, as_json=as_json)


def _described(size_bytes: int | None, etag: str | None, sha256: str | None) -> str:
    if size_bytes is None:
        return "nothing"
    return ", ".join([f"{size(size_bytes)}, ETag {etag}", *([f"SHA-256 {sha256}"] if sha256 else [])])
