"""Parse arguments that commands share: times, months and amounts; find the operator's name."""

import getpass
import re
from datetime import MAXYEAR, UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

import typer

from reelkeeper import logs

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
MAX_NUMBER: Final = 2**63 - 1  # that a database's column takes
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows to show, at most.")]

INTERRUPTED = 130  # the exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it
_MAX_MICROUSD = 10**12  # maximum of one ledger transfer
_FIRST_YEAR = 2000  # before any store
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def not_blank(text: str | None) -> str | None:
    """Require a text that is not blank; None was not given."""
    if text is not None and not text.strip():
        raise typer.BadParameter("it is empty; say why")
    return text


Reason = Annotated[str, typer.Option(callback=not_blank, help="The reason, for the audit record.")]


def moment(text: str | None) -> datetime | None:
    """Parse a time in ISO 8601; without a time zone it is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter beyond the years 1 and 9999, in UTC
        raise typer.BadParameter(f"{text!r} is not a time; write e.g. 2026-11-24 or 2026-11-24T06:00:00Z") from None


def writable(file: Path | None) -> Path | None:
    """Require a folder for a file that is written after long work; None is no file."""
    if file is not None and not file.parent.is_dir():
        raise typer.BadParameter(f"{file}: the folder {file.parent} is missing")
    return file


def text_of(file: Path) -> str:
    """Read a file of text. Raises InputRefused."""
    from reelkeeper.errors import InputRefused

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"{file} cannot be read: {error}") from None


def microusd(text: str) -> int:
    """Convert dollars, such as 10 or 0.25, to micro-dollars; refuse fractions of a micro-dollar."""
    try:
        amount = Decimal(text) * 10**6
    except ArithmeticError:
        raise typer.BadParameter(f"{text!r} is not an amount in dollars; write e.g. 10 or 0.25") from None
    if not amount.is_finite() or amount != int(amount) or not 0 < amount <= _MAX_MICROUSD:
        raise typer.BadParameter(f"{text!r}: from 0.000001 to {_MAX_MICROUSD // 10**6:,} dollars, to six decimals")
    return int(amount)


def byte_count(text: str) -> int:
    """Parse bytes with or without a unit: 5GiB, 5Gi, 500MB, 1073741824.

    pydantic's ByteSize is not used, since it refuses 5Gi and accepts 5kbit.
    """
    found = re.fullmatch(r"(\d{1,15}) ?(?:([kKMGT])(i?))?B?", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a number of bytes; write e.g. 5GiB, 500MB or 1073741824")
    number, unit, binary = found.groups()
    power = _POWERS[unit.upper()] if unit else 0
    size_bytes: int = int(number) * (1024 if binary else 1000) ** power
    return size_bytes


def month_of(text: str | None, at: datetime) -> date:
    """Parse YYYY-MM, which must have begun, as the month's first day; without a text, return the month of `at`."""
    try:
        begun = at if text is None else datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a month; write e.g. 2026-11") from None
    month = begun.date().replace(day=1)
    if month > at.date():
        raise typer.BadParameter(f"{text} has not begun on {at:%Y-%m-%d}")
    if not _FIRST_YEAR <= month.year < MAXYEAR:  # of the last year's last month no day follows
        raise typer.BadParameter(f"{month} is not of a year in which anything is stored; write e.g. 2026-11")
    return month


def who() -> str:
    """Return the user name of the operator, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        return "operator"


def new_run_id(verb: str) -> str:
    """Return a new id for one run of a command, for the audit and the logs."""
    run_id = f"{verb}-{uuid4().hex[:12]}"
    logs.bind(run_id=run_id)
    return run_id
