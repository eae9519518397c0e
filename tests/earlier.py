"""The release before 0.2.0, taken from the repository's history; it runs with the packages of today."""

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
EARLIER: Final = "4ec30ad"


def unpack(folder: Path) -> Path:
    """Unpack its tree into a folder; return the tree."""
    whole, tree = folder / "tree.tar", folder / EARLIER
    said = subprocess.run(
        [shutil.which("git") or "git", "-C", str(ROOT), "archive", f"--output={whole}", EARLIER], check=False
    )
    assert said.returncode == 0, f"this clone has no {EARLIER}: it needs its history (git fetch --unshallow)"
    with tarfile.open(whole) as archive:
        archive.extractall(tree, filter="data")
    whole.unlink()
    return tree
