"""Repeat what lost its connection to the store; explain why the store does not answer, with host, port and setting.

The password is never shown: libpq's messages have none, and it is removed from the URL.
"""

import logging
import re
import sqlite3
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import sqlalchemy as sa

from reelkeeper import disk
from reelkeeper.errors import Misconfigured, ReelkeeperError, Unavailable
from reelkeeper.redaction import redacted

_SETTING: Final = "REELKEEPER_DATABASE_URL"
# English messages of libpq and the server; for other languages the general text quotes the message.
_CAUSES: Final[tuple[tuple[str, type[ReelkeeperError], str], ...]] = (
    (r"authentication failed|no password supplied|no pg_hba\.conf entry", Misconfigured, "it refuses the user"),
    (r"role .* does not exist", Misconfigured, "it knows no such user"),
    (r"database .* does not exist", Misconfigured, "it has no such database: create it, then reelkeeper db upgrade"),
    (r"failed to resolve host|could not translate host name", Unavailable, "no address is known for that name"),
    (
        r"SSL negotiation|support SSL|certificate|SSL error: (wrong|tlsv)",
        Misconfigured,
        "the two do not agree on TLS: look at sslmode and sslrootcert in the URL",
    ),
    (
        r"connection timeout expired|timeout",
        Unavailable,
        "nothing answers within the time: a firewall, or a wrong port",
    ),
    (r"Connection refused", Unavailable, "nothing listens there, so look whether PostgreSQL runs"),
    (r"too many clients|remaining connection slots", Unavailable, "all its connections are taken: max_connections"),
    (r"starting up|shutting down|recovery", Unavailable, "it is starting or stopping: try again in a minute"),
    (r"No space left on device|could not extend file", Unavailable, "the disk of PostgreSQL is full: free some there"),
)
_AS_AWAY: Final = {  # by SQLSTATE; for psycopg these are internal errors
    "25006": "it takes no writes at the moment: it is a standby, or its disk is full",
    "25P03": "it ended a transaction: its idle_in_transaction_session_timeout is too short",
    "25P04": "it ended a transaction: its transaction_timeout is too short",
}
_BY_STATE: Final[dict[str, tuple[type[ReelkeeperError], str]]] = {
    **{state: (Unavailable, cause) for state, cause in _AS_AWAY.items()},
    "40P01": (Unavailable, "it ended one of two sessions that waited for each other: try again"),
    "42501": (Misconfigured, "the user lacks a right: give it the database, or GRANT ALL ON SCHEMA public to it"),
    "55P03": (
        Unavailable,
        "another session locks a table for too long: end it (pg_stat_activity has it), and try again",
    ),
    "57014": (Unavailable, "it ended a statement: the user's statement_timeout is too short, or somebody cancelled it"),
}
_OUTAGES: Final = {"08", "28", "3D", "53", "57"}  # SQLSTATE: connection, login, no such database, resources, stopped
_MAX_MESSAGE: Final = 300  # characters of the driver's message
_MAX_LOST: Final = 3  # connections in a row, after which a unit of work is given up
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def safe_to_repeat(unit: Callable[P, R]) -> Callable[P, R]:
    """Do a unit of work again where it lost its connection to the store, as while PostgreSQL restarts.

    What it had not committed is undone by then. Only connecting waits, as `outlast` says; a store that cannot be
    reached again ends the unit. Nothing that harms when done twice is one: the answer to a commit may be what was lost.
    """

    @wraps(unit)
    def until_done(*args: P.args, **kwargs: P.kwargs) -> R:
        lost = 0
        while True:
            try:
                return unit(*args, **kwargs)
            except sa.exc.DBAPIError as error:
                lost += 1
                require_lost(error, lost)

    return until_done


def require_lost(error: sa.exc.DBAPIError, times: int) -> None:
    """Raise `error` unless it says that the connection was lost, for one of the first `times` in a row."""
    # guard outages.units: a run ends because the store restarted within one of its statements
    if not error.connection_invalidated or times > _MAX_LOST:
        raise error
    _log.warning("the store's connection was lost; trying again: %s", error.orig)


def explained(error: sa.exc.DBAPIError, url: sa.URL) -> ReelkeeperError | None:
    """Turn the driver's error into one of ours; None where it is not a failure of the store as a whole."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite(error.orig, Path(url.database or ""))
    state = getattr(error.orig, "sqlstate", None)  # none: the connection itself failed
    lost = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated
    is_outage = lost and (not state or state[:2] in _OUTAGES)
    return unconnected(error.orig, url) if is_outage or state in _BY_STATE else None


def take_as_away(context: sa.ExceptionContext) -> sa.exc.OperationalError | None:
    """Have a PostgreSQL that takes no writes count as one that is away, and connect anew: another may be primary now.

    An internal error would be that of one item, or of one request.
    """
    error = context.original_exception
    if getattr(error, "sqlstate", None) not in _AS_AWAY:
        return None
    # guard outages.read_only: after a failover, a process keeps its connections to what is a standby now
    context.is_disconnect = True
    return sa.exc.OperationalError(context.statement, context.parameters, error, connection_invalidated=True)


def unconnected(error: BaseException | None, url: sa.URL) -> ReelkeeperError:
    """Turn the error of a PostgreSQL that could not be reached into one of ours: Unavailable where it may pass."""
    message = " ".join(redacted(str(error)).split())[:_MAX_MESSAGE]
    host, port = url.host or url.query.get("host") or "the local socket", url.port or url.query.get("port") or 5432
    by_text = ((kind, cause) for sign, kind, cause in _CAUSES if re.search(sign, message))
    kind, cause = _BY_STATE.get(getattr(error, "sqlstate", None) or "") or next(
        by_text, (Unavailable, "it gave no answer")
    )
    whose = f"database {url.database or url.username!r}, user {url.username!r}"
    return kind(f"PostgreSQL at {host}, port {port}, {whose}: {cause}. Check {_SETTING}. The driver said: {message}")


def _sqlite(error: sqlite3.Error, file: Path) -> ReelkeeperError | None:
    code, room = error.sqlite_errorname, disk.look(file)
    short = room.free_bytes < disk.FLOOR_BYTES
    if code == "SQLITE_FULL" or (short and code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))):
        return disk.full(file, "the disk of the store", disk.STATE_REMEDY)
    causes: tuple[tuple[str, Callable[[str], ReelkeeperError], str], ...] = (
        ("SQLITE_CANTOPEN", Misconfigured, "it cannot be opened: look at the rights of the file and its folder"),
        ("SQLITE_READONLY", Misconfigured, "it is read-only: look at the rights of the file, its folder and its disk"),
        ("SQLITE_NOTADB", Misconfigured, f"it is no SQLite database: look at {_SETTING} and REELKEEPER_STATE_DIR"),
        ("SQLITE_CORRUPT", Unavailable, "it is damaged: move it away, then reelkeeper db restore BACKUP"),
        ("SQLITE_BUSY", Unavailable, "another process is writing to it for too long: see who has it open"),
        ("SQLITE_IOERR", Unavailable, "its disk failed: look at the kernel's log (dmesg)"),
    )
    for sign, kind, cause in causes:
        if code.startswith(sign):
            return kind(f"the store {file}: {cause}. SQLite said: {error} ({code})")
    return None
