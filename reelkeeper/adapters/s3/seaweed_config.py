"""Configure the embedded S3 server: ports, credentials and files, kept in its folder.

Flags and files are of SeaweedFS 4.48 (`weed help mini`, `weed scaffold`). Each flag is given at every start, since
`weed mini` otherwise uses those of an earlier start.
"""

import json
import os
import random
import secrets
import socket
from pathlib import Path
from typing import TypedDict

PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    *("s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc", "webdav.port"),
)
PORT_RANGE = range(20_000, 32_000)  # below those that Linux hands out to outgoing connections, so they stay free
JWT_SECTIONS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")


class Kept(TypedDict):
    """Settings that are kept across restarts."""

    ports: dict[str, int]
    access_key_id: str
    secret_access_key: str
    jwt_keys: list[str]


def kept(folder: Path) -> Kept:
    """Return the settings kept in the folder; create them at the first start, with new ports if one is taken."""
    place = folder / "endpoint.json"
    if place.exists():
        settings: Kept = json.loads(place.read_text())
        if not all(_is_free(port) for port in settings["ports"].values()):
            settings["ports"] = _free_ports()
    else:
        settings = {
            "ports": _free_ports(),
            "access_key_id": secrets.token_hex(16),
            "secret_access_key": secrets.token_hex(32),
            "jwt_keys": [secrets.token_hex(32) for _ in JWT_SECTIONS],
        }
    _write(place, json.dumps(settings, indent=2))
    return settings


def flags(folder: Path, sockets: Path) -> list[str]:
    """Write the configuration into `folder` and return the arguments of `weed`."""
    settings = kept(folder)
    config, data, log = folder / "config", folder / "data", folder / "log"
    for part in (config, data, log):
        part.mkdir(mode=0o700, exist_ok=True)
    credentials = {"accessKey": settings["access_key_id"], "secretKey": settings["secret_access_key"]}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identities = [{"name": "reelkeeper", "credentials": [credentials], "actions": actions}]
    _write(config / "s3.json", json.dumps({"identities": identities}))
    # Without these keys, the ports behind the S3 port would serve and accept objects without credentials.
    pairs = zip(JWT_SECTIONS, settings["jwt_keys"], strict=True)
    _write(config / "security.toml", "".join(f'[{section}]\nkey = "{key}"\n' for section, key in pairs))
    _write(
        config / "filer.toml",
        "[filer.options]\n"
        "max_file_name_length = 1024\n"  # like R2; the default is 255 for each segment of a key
        's3.empty_folder_cleanup_delay = "1s"\n'
        f"[leveldb2]\nenabled = true\ndir = {json.dumps(str(data / 'filerldb2'))}\n",
    )
    (data / "mini.options").unlink(missing_ok=True)
    return [
        *(f"-config_dir={config}", f"-logdir={log}", "-logtostderr=false", "-alsologtostderr=false", "mini"),
        *(f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),  # else it listens on every network
        *(f"-{name}={port}" for name, port in settings["ports"].items()),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false"),
        *(f"-s3.config={config / 's3.json'}", "-s3.iam=false"),
        *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),  # like R2
        "-master.telemetry=false",  # telemetry to the vendor, on by default
        "-master.resumeState=false",  # else one start in three takes 5 to 20 s
        "-volume.max=2000",  # else only about as many buckets as there are free GB
        "-master.vacuumIntervalSeconds=60",  # free the space of deleted objects within a minute or two
        *(f"-filer.localSocket={sockets / 'filer.sock'}", f"-s3.localSocket={sockets / 's3.sock'}"),
    ]


def _write(place: Path, text: str) -> None:
    """Replace a file atomically, readable only by its owner."""
    partial = place.with_name(place.name + ".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  needs a mode
        file.write(text)
    partial.replace(place)


def _free_ports() -> dict[str, int]:
    candidates = iter(random.SystemRandom().sample(PORT_RANGE, len(PORT_RANGE)))
    return {name: next(port for port in candidates if _is_free(port)) for name in PORTS}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
