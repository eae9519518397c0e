"""Define how often each flow must succeed. prefect.yaml has the schedule; a test compares it with the periods here."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.rules.core.wording import span

RULE: Final = "silent_flow"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_NAMES: Final = {
    5 * _MINUTE: "every-5-minutes",
    15 * _MINUTE: "every-15-minutes",
    _HOUR: "hourly",
    _DAY: "daily",
    7 * _DAY: "weekly",
}


class Cadence(NamedTuple):
    """The longest time between two runs, and the grace for a run's end."""

    period_seconds: int
    grace_seconds: int

    @property
    def name(self) -> str:
        """Return the name of the deployment of this cadence: sync-catalog/hourly."""
        return _NAMES[self.period_seconds]


CADENCES: Final = {
    "back_up_store": Cadence(_DAY, 3 * _HOUR),
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
FLOWS: Final = (*CADENCES, "transcode_videos")  # the last has no schedule: runs of tier_storage start it
UNSCHEDULED: Final = Cadence(0, 0)  # of such a flow, which nobody awaits
NOT_IN_A_TRIAL: Final = frozenset(  # these make dry runs there, also by their schedules
    {"tier_storage", "transcode_videos", "expire_videos", "purge_retired", "dispatch_jobs"}
)


class Parts(NamedTuple):
    """The flows that are awaited, and which half of the work they are: a team may only store videos, or make them."""

    flows: frozenset[str]

    @classmethod
    def of(cls, deployed: frozenset[str] | None) -> "Parts":
        """Return what is deployed; all, where nobody has looked yet."""
        return cls(deployed) if deployed else ALL

    @property
    def stores(self) -> bool:
        """Check whether stored videos are compressed, retired or purged."""
        return not self.flows.isdisjoint({"tier_storage", "expire_videos", "purge_retired"})

    @property
    def makes(self) -> bool:
        """Check whether videos are made."""
        return "dispatch_jobs" in self.flows


ALL: Final = Parts(frozenset(CADENCES))


def is_overdue(since: datetime, cadence: Cadence, as_of: datetime) -> bool:
    """Return whether a flow should have succeeded again by now."""
    return as_of - since > timedelta(seconds=cadence.period_seconds + cadence.grace_seconds)


def seconds_until_next(at: datetime, cadence: Cadence) -> float:
    """Return the seconds until a flow's next run, where runs begin at multiples of its period since midnight UTC.

    >>> from datetime import UTC
    >>> seconds_until_next(datetime(2026, 11, 24, 12, 3, 30, tzinfo=UTC), CADENCES["dispatch_jobs"])
    90.0
    """
    return cadence.period_seconds - at.timestamp() % cadence.period_seconds


def silent(flow: str, since: datetime, cadence: Cadence, *, has_succeeded: bool, as_of: datetime) -> Finding | None:
    """Make the finding that a flow is overdue, or None. `since` is its last success, or the store's creation."""
    if not is_overdue(since, cadence, as_of):
        return None
    quiet_for = as_of - since
    last = f"It last succeeded at {since:%Y-%m-%d %H:%M} UTC" if has_succeeded else "It has never succeeded"
    return Finding(
        rule=RULE,
        scope=f"flow:{flow}",
        severity=Severity.CRITICAL,
        title=f"{flow} has not succeeded for {span(quiet_for)}",
        text=f"{last}; it should every {span(timedelta(seconds=cadence.period_seconds))}, and at the latest "
        f"{span(timedelta(seconds=cadence.grace_seconds))} after that.",
        suggestion=f"Check that Prefect's server and a worker are running, and how the runs of {flow} ended. "
        f"To run it now: reelkeeper run {flow} --apply",
    )
