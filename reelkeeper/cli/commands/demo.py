"""`demo`: the main job on real videos, in a folder of its own."""

import importlib
from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", file_okay=False, help="Where its state goes, and stays to be looked at.")
    ] = Path(".reelkeeper/demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh/--keep", help="Make the clips and Prefect's records anew too, or keep them.")
    ] = False,
) -> None:
    """See the main job on real videos: sync, plan, shrink, expire, restore, purge, and what is refused.

    Then what a month costs, and a burst of requests over HTTP: queued, made, and asked for again.
    Takes a minute or two, and touches nothing outside its folder: no setting, bucket or Prefect server of yours.
    """
    importlib.import_module("demo.demo").play(folder, fresh=fresh)
