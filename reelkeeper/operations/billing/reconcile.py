"""Our own count of a month against Cloudflare's, and what we charged against what Cloudflare bills."""

from datetime import date
from decimal import Decimal
from typing import NamedTuple

from reelkeeper.adapters.cloudflare import Client
from reelkeeper.errors import TokenRefused, UsageUnknown
from reelkeeper.model.money import UsageSource
from reelkeeper.rules.billing.reconcile import COMPARED, Comparison, compare
from reelkeeper.store import Engine
from reelkeeper.store.billing import charges, usage
from reelkeeper.store.core.engine import reading

_R2 = "r2-"


class Reconciled(NamedTuple):
    """A comparison of usage, and of the R2 lines of the bill so far. None: not known, `trouble` says why."""

    usage: Comparison
    charged_usd: Decimal
    billed_by_cloudflare_usd: Decimal | None
    trouble: str


def reconcile(engine: Engine, client: Client | None, first: date, last: date) -> Reconciled:
    """Compare the days from `first` to `last`: the usage on record, and the bill that Cloudflare is asked for."""
    with reading(engine) as session:
        ours, theirs = (
            list(usage.days(session, first, last, metrics=COMPARED, source=source, of_users=False))
            for source in (UsageSource.STORE, UsageSource.CLOUDFLARE)
        )
        services = charges.sums(session, "service", first, last)
    charged = Decimal(sum(total.billed_nanousd for total in services if total.key.startswith(_R2))).scaleb(-9)
    billed, trouble = _billed(client, first, last)
    return Reconciled(compare(ours, theirs), charged, billed, trouble)


def _billed(client: Client | None, first: date, last: date) -> tuple[Decimal | None, str]:
    if client is None:
        return None, "no REELKEEPER_CLOUDFLARE_API_TOKEN is set, so Cloudflare was not asked"
    try:
        amounts = [line.billed_usd for line in client.billed(first, last)]
    except (TokenRefused, UsageUnknown) as error:
        return None, str(error)
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) or not amounts:
        return None, "Cloudflare gives no amounts of money for these days"
    return sum(known, Decimal(0)), ""
