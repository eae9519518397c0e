"""Purge deleted or overwritten objects from the CDN's cache, which would serve them until Cache-Control expires.

The audit record lists the objects to purge, and a stored position in it marks the progress. After a crash some are
purged again; none is left out.
"""

import logging
import time
from contextlib import closing
from math import inf
from typing import Final

from reelkeeper.adapters.cloudflare.client import MAX_URLS, Zone, connect_zone
from reelkeeper.errors import ReelkeeperError
from reelkeeper.failpoints import effect
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts import alerts
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import audit, controls
from reelkeeper.store.core.engine import reading, transaction

RULE: Final = "cache_not_purged"
_NAME: Final = "cache_purge"  # the row of `controls` with the last processed event
_LOOK_BACK_SECONDS: Final = 7 * 86_400.0  # at the first run; caches seldom hold older objects
_MAX_REQUESTS: Final = 1_000  # in one call
_log = logging.getLogger(__name__)


def catch_up(engine: Engine, settings: Settings, run_id: str, *, seconds: float = inf) -> int | None:
    """Purge the objects deleted since the last call from the cache; return how many, 0 where there is no cache.

    None where that fails now: an alert is raised, and the next call repeats it. The deletion itself is done. None, too,
    where there are more than one call purges, or begins to in `seconds`: the next call goes on.
    """
    zone = connect_zone(settings)
    if zone is None:
        return 0
    try:
        with closing(zone):
            count = _catch_up(engine, zone, time.monotonic() + seconds)
    except ReelkeeperError as error:
        _log.warning("deleted objects could not be purged from the cache: %s", error)
        # guard cache.told: deleted videos are served from the cache, and nobody knows
        alerts.observe(engine, [_finding(str(error))], rules=[RULE], run_id=run_id)
        return None
    alerts.observe(engine, [], rules=[RULE], run_id=run_id)
    return count


def _catch_up(engine: Engine, zone: Zone, until: float) -> int | None:
    count = 0
    for _ in range(_MAX_REQUESTS):
        with reading(engine) as session:
            known = controls.remembered(session, [_NAME]).get(_NAME)
            position = known["event"] if known else audit.begun_before(session, _LOOK_BACK_SECONDS)
            found, end = audit.purged_after(session, position, MAX_URLS)
        if keys := sorted({key for _, key in found if key}):
            with effect("cache.forget"):
                zone.forget(keys)
        # guard cache.position: objects deleted while the CDN did not answer stay in its cache
        reached = found[-1][0] if found else end
        if reached != position:
            with transaction(engine, "cache.position") as session:
                controls.write(session, _NAME, {"event": reached})
        count += len(found)
        if len(found) < MAX_URLS:
            return count
        # guard cache.seconds: webhooks wait for hours while Cloudflare limits the rate of a large purge
        if time.monotonic() >= until:
            break
    # guard cache.all: of a user with more objects than one call purges, the rest stays in the cache after the erasure
    return None


def _finding(problem: str) -> Finding:
    return Finding(
        rule=RULE,
        scope="total",
        severity=Severity.WARNING,
        title="Deleted videos may still be served from Cloudflare's cache",
        text=f"The cache could not be purged: {problem}",
        suggestion="Check REELKEEPER_CACHE_PURGE_TOKEN and REELKEEPER_CACHE_ZONE_ID. The next run tries again",
    )
