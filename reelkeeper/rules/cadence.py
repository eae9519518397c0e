"""How often each flow must succeed. The schedule is prefect.yaml; a test compares the periods here with it."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.model.alerts import Finding, Severity

RULE: Final = "silent_flow"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Cadence(NamedTuple):
    """The longest time between two runs, and how much later than that a run may end."""

    period_seconds: int
    grace_seconds: int


CADENCES: Final = {
    "deliver_alerts": Cadence(5 * _MINUTE, 10 * _MINUTE),
    "dispatch_jobs": Cadence(5 * _MINUTE, 10 * _MINUTE),
    "expire_videos": Cadence(_DAY, 3 * _HOUR),
    "forecast_costs": Cadence(7 * _DAY, 12 * _HOUR),
    "monitor_costs": Cadence(_HOUR, 30 * _MINUTE),
    "monitor_performance": Cadence(15 * _MINUTE, 30 * _MINUTE),
    "prune_cache": Cadence(_DAY, 3 * _HOUR),
    "purge_retired": Cadence(_DAY, 3 * _HOUR),
    "settle_accounts": Cadence(_HOUR, 30 * _MINUTE),
    "sync_catalog": Cadence(_HOUR, _HOUR),
    "tune_concurrency": Cadence(15 * _MINUTE, 30 * _MINUTE),
    "tier_storage": Cadence(_DAY, 12 * _HOUR),  # encodes for hours
}


def silent(flow: str, since: datetime, cadence: Cadence, *, has_succeeded: bool, as_of: datetime) -> Finding | None:
    """Say that a flow is overdue, or None. `since` is its last success, or when the store was made if it had none."""
    limit = timedelta(seconds=cadence.period_seconds + cadence.grace_seconds)
    quiet_for = as_of - since
    if quiet_for <= limit:
        return None
    last = f"It last succeeded at {since:%Y-%m-%d %H:%M} UTC" if has_succeeded else "It has never succeeded"
    return Finding(
        rule=RULE,
        scope=f"flow:{flow}",
        period="",
        level="",
        severity=Severity.CRITICAL,
        title=f"{flow} has not succeeded for {_long(quiet_for)}",
        text=f"{last}; it should every {_long(timedelta(seconds=cadence.period_seconds))}, and at the latest "
        f"{_long(timedelta(seconds=cadence.grace_seconds))} after that.",
        suggestion=f"See whether Prefect's server and a worker are up, and how the runs of {flow} ended. "
        f"Here and now: reelkeeper run {flow} --apply",
    )


def _long(span: timedelta) -> str:
    for name, seconds in (("day", _DAY), ("hour", _HOUR)):
        if span.total_seconds() >= 2 * seconds or span.total_seconds() == seconds:
            count = span.total_seconds() / seconds
            return f"{count:.0f} {name}{'' if round(count) == 1 else 's'}"
    return f"{span.total_seconds() / _MINUTE:.0f} minutes"
