"""Swap a video's bytes as `compress` does, with an encode that was made beforehand instead of a search."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reelkeeper.model import Outcome, Refusal, Transcode
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import swap as steps
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.rules.lifecycle.transcode import Placement

Shrinker = Callable[[Path, Path], Transcode | Refusal]  # from an original, and the folder for the result


def swap(
    workspace: Workspace,
    video_id: str,
    blob_id: int,
    shrink: Shrinker,
    run: Run,
    placement: Placement = "new_key",
) -> Outcome:
    """Take the steps of `compress` that change something."""
    try:
        source = steps.find_source(workspace, video_id, blob_id, run)
        with steps.workplace(source, run) as folder:
            original = steps.download(workspace, source, folder, placement)
            result = steps.why_unfit(original) or shrink(original.path, folder)
            if isinstance(result, Refusal):
                return steps.refuse(workspace, source, result, run)
            return steps.swap(workspace, original, result, run)
    except steps.Skipped as skipped:
        return skipped.outcome


def shrinker(result: Transcode | Refusal, *, tamper: bool = False) -> Shrinker:
    """Return what was made beforehand, as if it had been made here; with `tamper`, not the bytes that were judged."""

    def shrink(_: Path, folder: Path) -> Transcode | Refusal:
        if isinstance(result, Refusal):
            return result
        copy = Path(shutil.copyfile(result.path, folder / Path(result.path).name))
        if tamper:
            copy.write_bytes(copy.read_bytes()[:-100])
        return replace(result, path=str(copy))

    return shrink
