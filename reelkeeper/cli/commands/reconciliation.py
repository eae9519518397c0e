"""What `bill --reconcile cloudflare` shows: our own count of a month beside Cloudflare's."""

from contextlib import closing, nullcontext
from datetime import date
from typing import TYPE_CHECKING

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.rules.billing.focus import exact_usd, written

if TYPE_CHECKING:
    from reelkeeper.operations.billing.metering import Reconciled


def show(first: date, last: date, *, as_json: bool) -> None:
    """Compare the days from `first` to `last`, and print the differences."""
    from reelkeeper.adapters import cloudflare
    from reelkeeper.operations.billing.metering import reconcile

    client = cloudflare.connect(configured())
    with store() as engine, closing(client) if client else nullcontext():
        found = reconcile(engine, client, first, last)
    if as_json:
        emit(_as_json(found))
    else:
        _print(found, f"{first:%Y-%m}")


def _as_json(found: "Reconciled") -> dict[str, object]:
    days = found.usage
    billed = found.billed_by_cloudflare_usd
    return {
        "differences": [
            {"sku": difference.sku, "unit": difference.unit, "ours": difference.ours, "theirs": difference.theirs}
            | {"difference": difference.difference, "list_usd": exact_usd(difference.list_nanousd)}
            for difference in days.differences
        ],
        "days_of_both": days.both,
        "days_of_ours_alone": days.only_ours,
        "days_of_theirs_alone": days.only_theirs,
        "charged_usd": written(found.charged_usd),
        "billed_by_cloudflare_usd": None if billed is None else written(billed),
        "trouble": found.trouble,
    }


def _print(found: "Reconciled", month: str) -> None:
    days = found.usage
    if days.both:
        rows = [
            (item.sku, item.unit, item.ours, item.theirs, item.difference, exact_usd(item.list_nanousd))
            for item in days.differences
        ]
        table(("!sku", "unit", ">ours", ">Cloudflare's", ">difference", ">$ list"), rows)
    say(
        f"{month}: {len(days.both)} days are known to both, {len(days.only_ours)} to us alone, "
        f"{len(days.only_theirs)} to Cloudflare alone."
    )
    if found.billed_by_cloudflare_usd is None:
        say(f"Charged for R2: ${written(found.charged_usd)}. What Cloudflare bills is not known: {found.trouble}.")
        return
    difference = found.billed_by_cloudflare_usd - found.charged_usd
    say(
        f"Charged for R2: ${written(found.charged_usd)}. Cloudflare bills ${written(found.billed_by_cloudflare_usd)}: "
        f"a difference of ${written(difference)}."
    )
