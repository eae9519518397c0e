"""Parse arguments that commands share: a moment, a month, amounts, and the operator's name."""

import getpass
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from reelkeeper import logs

if TYPE_CHECKING:
    from reelkeeper.rules.spend.budget import BudgetPolicy

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
DailyBudget = Annotated[
    str | None, typer.Option(metavar="USD", help="Compare days with this budget; none: with no budget.")
]
MonthlyBudget = Annotated[
    str | None, typer.Option(metavar="USD", help="Compare the month with this budget; none: with no budget.")
]

_MAX_MICROUSD = 10**12  # what the ledger moves at once
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def moment(text: str | None) -> datetime | None:
    """Read ISO 8601; without a zone it is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write e.g. 2026-11-24 or 2026-11-24T06:00:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def microusd(text: str) -> int:
    """Convert dollars, such as 10 or 0.25, to micro-dollars; refuse fractions of a micro-dollar."""
    try:
        amount = Decimal(text) * 10**6
    except ArithmeticError:
        raise typer.BadParameter(f"{text!r} is no amount of dollars; write e.g. 10 or 0.25") from None
    if not amount.is_finite() or amount != int(amount) or not 0 < amount <= _MAX_MICROUSD:
        raise typer.BadParameter(f"{text!r}: from 0.000001 to {_MAX_MICROUSD // 10**6:,} dollars, to six digits")
    return int(amount)


def budgets(**given: str | None) -> "BudgetPolicy | None":
    """Read budgets in dollars, as an exception to those in force; "none" is no budget."""
    from pydantic import ValidationError

    from reelkeeper.rules.spend.budget import BudgetPolicy

    amounts = {name: None if usd == "none" else usd for name, usd in given.items() if usd is not None}
    try:
        return BudgetPolicy.model_validate(amounts) if amounts else None
    except ValidationError as error:
        wrong = "; ".join(f"{entry['input']!r}: {entry['msg']}" for entry in error.errors())
        raise typer.BadParameter(f"a budget is dollars, such as 200, or none: {wrong}") from None


def byte_count(text: str) -> int:
    """Read bytes with or without a unit: 5GiB, 5Gi, 500MB, 1073741824.

    Not by pydantic's ByteSize, which refuses 5Gi and takes 5kbit.
    """
    found = re.fullmatch(r"(\d{1,15}) ?(?:([kKMGT])(i?))?B?", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no number of bytes; write e.g. 5GiB, 500MB or 1073741824")
    number, unit, binary = found.groups()
    power = _POWERS[unit.upper()] if unit else 0
    size_bytes: int = int(number) * (1024 if binary else 1000) ** power
    return size_bytes


def month_of(text: str | None, at: datetime) -> date:
    """Read YYYY-MM as the first day of that month; without a text it is the month of `at`. It must have begun."""
    if text is None:
        return at.date().replace(day=1)
    try:
        month = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no month; write e.g. 2026-11") from None
    if month > at.date():
        raise typer.BadParameter(f"{text} has not begun on {at:%Y-%m-%d}")
    return month


def who() -> str:
    """Name the person at the keyboard, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in many containers
        return "operator"


def new_run_id(verb: str) -> str:
    """Name one run of a command, for the audit and in its logs."""
    run_id = f"{verb}-{uuid4().hex[:12]}"
    logs.bind(run_id=run_id)
    return run_id
