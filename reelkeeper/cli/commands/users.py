"""`users`: what a user may ask of a service: a copy of all their data."""

from pathlib import Path
from typing import Annotated

import typer

from reelkeeper.cli.opening import workspace
from reelkeeper.cli.screen import emit, say, size, table
from reelkeeper.cli.words import AsJson
from reelkeeper.errors import Misconfigured, PartialFailure

group = typer.Typer(help="Give users what they may ask for.", no_args_is_help=True)


@group.callback()
def users() -> None:
    """Keep the group a group while it has one command."""


@group.command()
def export(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose data.")],
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
