"""Check that this machine may and can do a deployment's work, before it takes any. Nothing is made or changed here.

require_deployment(settings, deployment_id)   # its store is the deployment's, of the schema of this version
require_fit(engine, scratch)                  # ffmpeg, room on the scratch disk, and still that schema
"""

import socket
from pathlib import Path

from reelkeeper import disk
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import SCRATCH, SCRATCH_REMEDY
from reelkeeper.errors import IdentityMismatch, SchemaError
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import newest_schema, open_store, reading, schema_of
from reelkeeper.store.core.failures import safe_to_repeat


def name() -> str:
    """Name this machine, or container, as messages and alerts do."""
    return socket.gethostname()


def require_deployment(settings: Settings, deployment_id: str, *, patience_seconds: float = 0.0) -> None:
    """Raise IdentityMismatch unless the configured store is that deployment's; no store is made or upgraded for it.

    Raises SchemaError where a shared store has another schema than this version, Unavailable where it gives no answer
    for `patience_seconds`.
    """
    # guard machines.no_store: a process without settings makes a store and a bucket of its own, and does the work there
    if settings.database_url is None and not settings.store_file.exists():
        raise IdentityMismatch(_elsewhere(settings, f"it would make one at {settings.store_file}", deployment_id))
    with open_store(settings, as_it_is=True, patience_seconds=patience_seconds) as engine:
        found = safe_to_repeat(deployment.owner)(engine)
        # guard machines.other_store: a process with another store takes this deployment's work, and does it there
        if found != deployment_id:
            raise IdentityMismatch(
                _elsewhere(settings, f"its store is that of {found or 'no deployment'}", deployment_id)
            )
        if settings.database_url is not None:  # the embedded one is upgraded when it is opened
            require_schema(engine)


def _elsewhere(settings: Settings, found: str, deployment_id: str) -> str:
    unset = [
        name
        for name, value in (
            ("REELKEEPER_DATABASE_URL", settings.database_url),
            ("REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL", settings.endpoint_url),
        )
        if value is None
    ]
    missing = f"{' and '.join(unset)} not set here: " if unset else ""
    return (
        f"machine {name()} is not of this deployment: {missing}this process would work on a store of its own, since "
        f"{found}, and the work is that of deployment {deployment_id}. Nothing was made or changed. Give it the "
        "deployment's settings: the same .env, in REELKEEPER_HOME or the folder where it is started"
    )


def require_schema(engine: Engine) -> None:
    """Raise SchemaError unless the store still has the schema of this version."""
    with reading(engine) as session:
        found = schema_of(session)
    # guard machines.schema: a process of another version works on a store that it does not understand
    if found != [newest_schema()]:
        raise SchemaError(
            f"machine {name()} has another version than the store, whose schema is {', '.join(found)}, while this "
            f"version needs {newest_schema()}: install the same version here, or run `reelkeeper db upgrade`"
        )


def require_fit(engine: Engine, scratch: Path) -> None:
    """Raise ToolMissing, DiskFull or SchemaError if this machine cannot work on videos now.

    It costs a small query and three system calls: what the tools can do is known from the first time.
    """
    require_schema(engine)
    ffmpeg.tools()
    # guard machines.room: a machine with a full disk takes one piece of work after another
    disk.require(scratch, SCRATCH, SCRATCH_REMEDY)
