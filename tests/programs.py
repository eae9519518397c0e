"""Programs that no wheel has: .ci/run installs them, and other machines may lack them."""

import os
import shutil
from collections.abc import Sequence

import pytest


def skip_without(lacking: Sequence[str]) -> None:
    """Skip the test where this machine lacks something; fail where CI has not installed it."""
    if lacking and "CI" not in os.environ:
        pytest.skip(f"no {', '.join(lacking)} here; .ci/run installs it")
    assert not lacking, f"this suite needs {', '.join(lacking)}"


def program(name: str) -> str:
    """Return the path of a program, those for administrators too; without it, as `skip_without`."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    skip_without([] if found else [name])
    return str(found)
