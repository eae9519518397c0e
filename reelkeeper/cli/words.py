"""What commands read alike: a moment, and who is asking."""

import getpass
from datetime import UTC, datetime
from uuid import uuid4

import typer


def moment(text: str | None) -> datetime | None:
    """Read ISO 8601; without a zone it is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write e.g. 2026-11-24 or 2026-11-24T06:00:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def who() -> str:
    """Name the person at the keyboard, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in many containers
        return "operator"


def new_run_id(verb: str) -> str:
    """Name one run of a command, for the audit."""
    return f"{verb}-{uuid4().hex[:12]}"
