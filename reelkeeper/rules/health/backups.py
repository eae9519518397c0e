"""Decide which backups of the store are kept, and say how a run of `back_up_store` ended. Pure."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.errors import Refused
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.document import RunReport

RULE: Final = "backup_failed"
TESTED_EVERY: Final = timedelta(days=7) - timedelta(hours=1)  # a run begins a little earlier or later
_UNTIL_NEXT: Final = timedelta(days=1, hours=3)  # at most: its period and grace, as in alerts/cadence.py
_CLOCKS_DIFFER: Final = timedelta(hours=1)  # at most, of the store and the machine that restores
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_NAME: Final = re.compile(  # as `store.core.backup` names them
    r"reelkeeper-(\w{8})-(\d{8}T\d{6}\.\d{6}Z)\.(?:sqlite3|zip)(|\.sha256|(?:\.\w{8})?\.partial)"
)


@dataclass(frozen=True, slots=True)
class BackupReport(RunReport):
    """The backup that a run has made, whether it was restored as a check, and how many whole ones there are now."""

    place: str
    kept: int
    deleted: int
    backup: str = ""
    size_bytes: int = 0
    restored: bool = False


class _Named(NamedTuple):
    at: datetime
    deployment: str
    name: str
    part: str  # "" for the backup itself


def whole(names: Iterable[str]) -> list[str]:
    """List the backups that have their checksums, the newest first."""
    names = set(names)
    return [item.name for item in _named(names) if not item.part and f"{item.name}.sha256" in names]


def newest(names: Iterable[str], place: str, as_of: datetime) -> str:
    """Return the newest whole backup, one of the future only where there is no other.

    Raises Refused if there is none, or if those of several deployments are there.
    """
    # guard backups.ahead: a backup made while the clock was ahead comes back for ever, and what came since is lost
    by_age = sorted(_named(whole(names)), key=lambda item: (item.at <= as_of + _CLOCKS_DIFFER, item.at))
    last = {item.deployment: item.name for item in by_age}
    if len(last) != 1:
        found = f"of {len(last)} deployments: name the one to restore, {', '.join(last.values())}" if last else "none"
        raise Refused(f"the backups in {place} are {found}. Nothing was changed")
    return last.popitem()[1]


def old(names: Collection[str], made: str, days: int) -> list[str]:
    """List the files of this deployment's backups that would be older than `days` before the run after that of `made`.

    What has another name is not ours to delete. After days without a backup, or with the clock ahead, ages count from a
    day after the one before `made`: the next run deletes what is old then.
    """
    (new,) = _named([made])
    earlier = [item.at for item in _named(whole(names)) if item.deployment == new.deployment and item.at < new.at]
    # guard backups.clock_ahead: one night with the clock weeks ahead deletes all earlier backups
    as_of = min([new.at, *(at + _UNTIL_NEXT for at in earlier[:1])])
    before = as_of - timedelta(days=days) + _UNTIL_NEXT
    # guard backups.own: of two deployments with one place, one deletes the last backup of the other
    return sorted(item.name for item in _named(names) if item.at < before and item.deployment == new.deployment)


def failed(error: Exception) -> Finding:
    """Make the finding that the last run made no backup, or one that cannot be restored."""
    return Finding(
        rule=RULE,
        scope="store",
        severity=Severity.CRITICAL,
        title="The store has no new backup that can be restored",
        text=str(error) or type(error).__name__,
        suggestion="Earlier backups are kept until one succeeds. To try again: reelkeeper run back_up_store --apply",
    )


def _named(names: Iterable[str]) -> list[_Named]:
    """Read the names of backups and of files beside them, the newest first."""
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    found = [_Named(datetime.strptime(at[2], _TIME).replace(tzinfo=UTC), at[1], at[0], at[3]) for at in matches]
    return sorted(found, reverse=True)
