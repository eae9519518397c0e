"""Where a run works: the pull step of prefect.yaml."""

import os
from pathlib import Path

HOME = "REELKEEPER_HOME"


def enter() -> dict[str, str]:
    """Go to REELKEEPER_HOME, else to the checkout that this is part of, else stay; `.env` is read from there."""
    checkout = Path(__file__).parent.parent
    home = os.environ.get(HOME) or (checkout if (checkout / "prefect.yaml").exists() else ".")
    os.chdir(home)
    return {"directory": str(Path.cwd())}
