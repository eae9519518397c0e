"""The pull step of prefect.yaml: change to the folder in which a run works."""

import os
from pathlib import Path

HOME = "REELKEEPER_HOME"


def enter() -> dict[str, str]:
    """Change to REELKEEPER_HOME, else to the checkout that contains this file, else stay; `.env` is read from there."""
    checkout = Path(__file__).parent.parent
    home = os.environ.get(HOME) or (checkout if (checkout / "prefect.yaml").exists() else ".")
    os.chdir(home)
    return {"directory": str(Path.cwd())}
