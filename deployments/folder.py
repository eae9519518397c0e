"""The pull step of prefect.yaml: change to the folder in which a run works."""

import os
from pathlib import Path

from reelkeeper.errors import Misconfigured

HOME = "REELKEEPER_HOME"


def enter() -> dict[str, str]:
    """Change to REELKEEPER_HOME, else to the checkout that contains this file, else stay; `.env` is read from there."""
    checkout = Path(__file__).parent.parent
    home = os.environ.get(HOME) or (checkout if (checkout / "prefect.yaml").exists() else ".")
    os.chdir(home)
    return {"directory": str(Path.cwd())}


def require() -> None:
    """Raise Misconfigured where REELKEEPER_HOME names a missing folder: made here, it would lack the `.env`."""
    home = Path(os.environ.get(HOME) or ".")
    # guard machines.home: it starts, and each run crashes as it begins
    if not home.is_dir():
        raise Misconfigured(
            f"{HOME} names {home.absolute()}, which is not there: name the folder with the .env that runs read, or "
            "unset it, and they work in the folder where this is started"
        )
