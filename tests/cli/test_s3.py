"""`s3 start`: the embedded server in the foreground, shared by commands with the same folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("reelkeeper")


@pytest.mark.long
def test_the_server_runs_until_interrupted_and_other_processes_share_it(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REELKEEPER_")}
    surroundings = kept | {"REELKEEPER_STATE_DIR": str(tmp_path / "state")}
    server = subprocess.Popen(
        [COMMAND, "s3", "start"], cwd=tmp_path, env=surroundings, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert server.stdout is not None
        said = [server.stdout.readline() for _ in range(6)]
        assert said[0].startswith("S3 at http://127.0.0.1:")
        assert [line.split("=")[0].strip() for line in said[2:5]] == [
            f"export REELKEEPER_S3_{name}" for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
        ]
        subprocess.run([COMMAND, "db", "upgrade"], cwd=tmp_path, env=surroundings, check=True, timeout=280)
        joined = subprocess.run(
            [COMMAND, "doctor"],
            cwd=tmp_path,
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert joined.returncode == 0, joined.stdout + joined.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=280) == 0
        assert server.stdout.read().strip().endswith("Stopped.")
    finally:
        server.kill()
        server.wait()
