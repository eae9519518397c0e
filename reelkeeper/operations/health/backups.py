"""Back the store up each night, once a week restore the backup as a check, and delete old ones after both.

Earlier backups are deleted only once a newer one is whole, and one was restored within a week: the last that was
restored is always there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from reelkeeper.adapters.backups import backup_place
from reelkeeper.adapters.ffmpeg.intake import sweep_scratch_dirs
from reelkeeper.disk import make_folder
from reelkeeper.errors import IntegrityDoubt
from reelkeeper.operations.core.lease import alone
from reelkeeper.operations.health import accounts
from reelkeeper.operations.videos.intents import require_room, workplace
from reelkeeper.rules.billing.accounts import summary
from reelkeeper.rules.health import backups as rule
from reelkeeper.rules.health.backups import BackupReport
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import backup as store
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.snapshots import Contents

_RESTORED: Final = "backup.restored"  # controls: the last backup that was restored as a check
_COPIES: Final = 2  # of the store on the scratch disk: as it is checked, and restored


def look(settings: Settings, run_id: str) -> BackupReport:
    """Count the whole backups. Changes nothing."""
    place = backup_place(settings, settings.scratch)
    return BackupReport("back_up_store", run_id, True, str(place), len(rule.whole(place.names())), 0)


def back_up(engine: Engine, settings: Settings, *, days: int, run_id: str) -> BackupReport:
    """Make a backup, also while changes are frozen; restore it if none was for a week; delete those older than `days`.

    Raises DiskFull, StorageError, or IntegrityDoubt for one that is not what was backed up: then none is deleted.
    """
    sweep_scratch_dirs(settings.scratch)
    with reading(engine) as session:
        is_due = controls.fresh(session, _RESTORED, rule.TESTED_EVERY.total_seconds()) is None
    with alone(engine, "flow/back_up_store") as held, workplace(settings.scratch, 0) as scratch:
        place, seen = backup_place(settings, scratch), dict[str, Contents]()
        made = store.backup(engine, make_folder(place.folder), seen if is_due else None)
        size_bytes = made.stat().st_size
        place.keep(made.name)
        # guard backups.tested: a backup that cannot be restored is found out when it is needed
        if is_due:
            require_room(scratch, size_bytes * _COPIES if engine.dialect.name == "sqlite" else 0)
            _try_out(engine, place.fetch(made.name), seen, scratch)
            with transaction(engine, "backup.restored") as session:
                controls.write(session, _RESTORED, {"backup": made.name})
        held.check()
        gone = rule.old(place.names(), made.name, days)
        place.delete(gone)
        left = len(rule.whole(place.names()))
    deleted = len(rule.whole(gone))
    return BackupReport("back_up_store", run_id, False, str(place), left, deleted, made.name, size_bytes, is_due)


def _try_out(engine: Engine, saved: Path, seen: dict[str, Contents], scratch: Path) -> None:
    """Restore a backup into a scratch store; compare rows, sums and the audit record. Raises IntegrityDoubt."""
    with store.scratch_store(engine, scratch) as url:
        store.restore(url, saved)
        store.compare(url, seen, saved)
        restored = open_engine(url)
        wrong = accounts.recount(restored)
        restored.dispose()
        # guard backups.sums: a backup whose books do not add up counts as good, and earlier ones are deleted
        if wrong:
            raise IntegrityDoubt(f"in the restored {saved.name}, {summary(wrong)}")


@contextmanager
def found(settings: Settings, name: str | None) -> Iterator[Path]:
    """Yield the file of a backup: that file, or the one of this name in the configured place; by default the newest."""
    if name and Path(name).is_file():
        yield Path(name)
        return
    with workplace(settings.scratch, 0) as scratch:
        place = backup_place(settings, scratch)
        yield place.fetch(name or rule.newest(place.names(), str(place), datetime.now(UTC)))
