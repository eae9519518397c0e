"""Usage and charges: what was used is collected, priced and read."""

from contextlib import closing
from datetime import date, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.adapters import cloudflare
from reelkeeper.model.money import Charge
from reelkeeper.operations.billing import metering
from reelkeeper.operations.billing.metering import Collected
from reelkeeper.operations.core.workspace import Workspace, flush_operations
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import settings


@task(task_run_name="collect what was used", cache_policy=NO_CACHE)
def collect(workspace: Workspace, as_of: datetime) -> Collected:
    """Sample the catalogue and ask Cloudflare, if there is a token; where it does not answer our count stands in."""
    flush_operations(workspace.engine, workspace.bucket)
    client = cloudflare.connect(settings())
    if client is None:
        return metering.collect(workspace.engine, None, as_of)
    with closing(client):
        found = metering.collect(workspace.engine, client, as_of)
    if found.trouble:
        get_run_logger().warning("usage is our own count alone: %s", found.trouble)
    return found


@task(task_run_name="charge what was used", cache_policy=NO_CACHE)
def charge(workspace: Workspace, book: PriceBook, as_of: datetime) -> int:
    """Charge each day of this month whose charges are not what its usage makes them; returns how many."""
    return metering.charge(workspace.engine, book, as_of)


@task(task_run_name="read the charges", cache_policy=NO_CACHE)
def charges_between(workspace: Workspace, first: date, last: date) -> list[Charge]:
    """Read the charges of the days from `first` to `last`."""
    return metering.charges_between(workspace.engine, first, last)
