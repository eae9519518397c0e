"""What runs of tests share: servers, empty stores and a clip, made once by the fixtures of this suite.

`Lender` starts one session of pytest, whose only test is in this file; it keeps what the fixtures made until the input
ends. In each run of tests, this file is a plugin, whose fixtures lend the same instead of making it anew.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint

PLACES: Final = "ABLATION_LENDS"  # the variable with the file that says where everything is


class Lender:
    """A session that keeps everything ready until it is closed."""

    def __init__(self, root: Path, places: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", "-p", "no:randomly"]
        self._process = subprocess.Popen(
            [*command, "-n0", "-o", "python_files=lend.py", "tests/ablation/lend.py"],
            cwd=root,
            env=environment | {PLACES: str(places)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "all is ready" in line:
                return
        raise RuntimeError("".join(said))

    def close(self) -> None:
        """End the servers."""
        self._process.communicate()
        self._process.wait(60)


@pytest.mark.timeout(0)  # it lasts as long as the tests to which it lends: all guards take longer than a long test may
def test_keep_all_of_it_ready(
    endpoint: Endpoint, postgresql: sa.URL, migrated_file: Path, migrated_database: str, tiny_clip: Path
) -> None:
    places = {
        "endpoint": [endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key],
        "postgresql": postgresql.render_as_string(hide_password=False),
        "migrated_file": str(migrated_file),
        "migrated_database": migrated_database,
        "tiny_clip": str(tiny_clip),
    }
    Path(os.environ[PLACES]).write_text(json.dumps(places))
    sys.stdout.write("\nall is ready\n")
    sys.stdout.flush()
    sys.stdin.read()


class Lent:
    """Fixtures in place of those that would start servers, migrate stores and draw clips."""

    def __init__(self, places: dict[str, Any]) -> None:
        self._places = places

    @pytest.fixture(scope="session")
    def endpoint(self) -> Endpoint:
        return Endpoint(*self._places["endpoint"])

    @pytest.fixture(scope="session")
    def postgresql(self) -> sa.URL:
        return sa.make_url(self._places["postgresql"])

    @pytest.fixture(scope="session")
    def migrated_file(self) -> Path:
        return Path(self._places["migrated_file"])

    @pytest.fixture(scope="session")
    def migrated_database(self) -> str:
        return str(self._places["migrated_database"])

    @pytest.fixture(scope="session")
    def tiny_clip(self) -> Path:
        return Path(self._places["tiny_clip"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Register the fixtures after those of the suite, which they replace."""
    places = os.environ.get(PLACES)
    if places and Path(places).exists():
        session.config.pluginmanager.register(Lent(json.loads(Path(places).read_text())))
