"""A PostgreSQL of Debian's, on a port of its own: Prefect's server wants the extension pg_trgm, which no wheel has."""

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.e2e.installation import until
from tests.ports import free_port

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}


@contextmanager
def running() -> Iterator[sa.URL]:
    """Run a server in a new folder, as another user where we are root, which it refuses to be."""
    assert FOLDERS, "PostgreSQL is not installed: apt-get install postgresql"
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="reelkeeper-postgresql-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data, port = place / "data", free_port()
        initdb: list[str | Path] = [
            FOLDERS[-1] / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder, timeout=120)
        told = {**_FAST, "port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": folder}
        options = [word for name, value in told.items() for word in ("-c", f"{name}={value}")]
        with (place / "log").open("wb") as log:
            server = subprocess.Popen(
                [FOLDERS[-1] / "postgres", "-D", data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                cwd=folder,
                start_new_session=True,
            )
        try:
            url = sa.make_url(f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres")
            _wait(url, place / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # disconnect everybody and stop
            server.wait(60)


def _wait(url: sa.URL, log: Path) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def answers() -> bool:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        return True

    until(answers, 60, f"PostgreSQL answers: {log}")
