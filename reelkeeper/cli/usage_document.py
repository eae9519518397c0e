"""Price a usage document for `bill --usage`."""

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from reelkeeper.cli.screen import emit, table
from reelkeeper.rules.billing.focus import written

if TYPE_CHECKING:
    from reelkeeper.rules.billing.pricing import Bill, BillLine, Usage

_SHOWN_PLACES = 6  # of a figure on the screen; JSON has all


def price_document(name: str, *, as_json: bool) -> None:
    """Price the document in the file `name`, or on standard input for -, and print its bill."""
    from reelkeeper.rules.billing.pricing import bill

    priced = bill(_read(name))
    if not as_json:
        _show(priced)
        return
    emit(
        {
            "billed_usd": written(priced.billed_usd),
            "exact_usd": written(priced.exact_usd),
            "lines": [_as_json(bill_line) for bill_line in priced.lines],
        }
    )


def _read(name: str) -> "Usage":
    """Read a usage document. Raises typer.BadParameter, which names each invalid field with its value and limit."""
    from pydantic import ValidationError

    from reelkeeper.rules.billing.pricing import Usage

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
        document = json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_each_once)
        return Usage.model_validate(document)
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, entry['loc'])) or 'it'} is {entry['input']!s:.40}: {entry['msg']}"
            for entry in error.errors()
        )
        raise typer.BadParameter(f"{name}: {'; '.join(wrong)}") from None
    # missing, not JSON, not UTF-8, too deeply nested, or a number of more digits than there are
    except (OSError, ValueError, RecursionError, ArithmeticError) as error:
        raise typer.BadParameter(f"{name} is not a usage document: {error}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"a field occurs twice among {', '.join(name for name, _ in pairs)}")
    return fields


def _as_json(line: "BillLine") -> dict[str, object]:
    return {
        "sku": line.sku,
        "quantity": _figure(line.quantity),
        "free": line.free,
        "billable_units": line.billable_units,
        "unit_price_usd": written(line.unit_price_usd),
        "billed_usd": written(line.billed_usd),
        "exact_usd": written(line.exact_usd),
    }


def _figure(quantity: Decimal) -> int | float:
    return int(quantity) if quantity == quantity.to_integral_value() else float(quantity)


def _show(priced: "Bill") -> None:
    headings = ("!sku", ">quantity", ">free", ">units", ">$ a unit", ">$ billed", ">$ exact")
    rows: list[tuple[object, ...]] = [
        (
            bill_line.sku,
            f"{round(bill_line.quantity, _SHOWN_PLACES).normalize():,f}",
            bill_line.free,
            bill_line.billable_units,
            *map(_shown, (bill_line.unit_price_usd, bill_line.billed_usd, bill_line.exact_usd)),
        )
        for bill_line in priced.lines
        if bill_line.quantity
    ]
    table(headings, [*rows, ("total", "", "", "", "", _shown(priced.billed_usd), _shown(priced.exact_usd))])


def _shown(usd: Decimal) -> str:
    return written(round(usd, _SHOWN_PLACES))
