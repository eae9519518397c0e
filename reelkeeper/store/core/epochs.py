"""Store the epochs that this store has announced or accepted, and where it lives: both tell a copy from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import Clock, insert_into, one_of
from reelkeeper.store.tables import controls as _controls
from reelkeeper.store.tables import epochs, orphans, users, videos

HOME: Final = "store.home"  # controls: the database in which this store works
RESTORED: Final = "store.restored"  # controls: the backup from which it was restored, until a person adopts it
BEHIND: Final = "store.behind"  # controls: why the last look found it behind, for `status`
ADOPTED: Final = "store.adopted"  # controls: when a person last went on with a store that was restored or copied
_KEPT_DAYS: Final = 90  # what an older backup may need to know: restores and holds
_LASTING: Final = ("restore", "hold")


class Epoch(NamedTuple):
    """An announcement; its `name` is that of the object in the bucket."""

    name: str
    number: int
    kind: str
    detail: Mapping[str, Any]


def announce(session: Session, nonce: str, kind: str, detail: Mapping[str, Any], lease: str | None = None) -> Epoch:
    """Announce the next epoch. The caller has locked the deployment row, so that no two get one number."""
    number = session.execute(sa.select(sa.func.coalesce(sa.func.max(epochs.c.number), 0) + 1)).scalar_one()
    epoch = Epoch(f"{number:012d}-{nonce}", number, kind, detail)
    own = {"is_own": True, "lease": lease, "announced_at": Clock()}
    session.execute(sa.insert(epochs).values(**epoch._asdict(), **own))
    return epoch


def unconfirmed(session: Session) -> list[Epoch]:
    """List the own epochs that are not known to be stored, oldest first."""
    columns = (epochs.c[name] for name in Epoch._fields)
    rows = session.execute(sa.select(*columns).where(epochs.c.confirmed_at.is_(None)).order_by(epochs.c.number))
    return [Epoch(*row) for row in rows]


def confirm(session: Session, names: Sequence[str]) -> None:
    """Record that these epochs are stored, and nothing that the store does not know."""
    session.execute(sa.update(epochs).where(one_of(session, epochs.c.name, names)).values(confirmed_at=Clock()))


def confirmed(session: Session) -> int:
    """Return the number of the last confirmed epoch; 0: there is none."""
    last = sa.select(sa.func.max(epochs.c.number)).where(epochs.c.confirmed_at.is_not(None))
    return session.execute(last).scalar() or 0


def is_confirmed(session: Session, lease: str) -> bool:
    """Check whether the deletions under this lease were announced and confirmed."""
    own = sa.select(epochs.c.name).where(epochs.c.lease == lease, epochs.c.confirmed_at.is_not(None))
    return session.execute(own.limit(1)).scalar() is not None


def is_announced(session: Session, lease: str) -> bool:
    """Check whether the deletions under this lease were announced."""
    return session.execute(sa.select(epochs.c.name).where(epochs.c.lease == lease).limit(1)).scalar() is not None


def known(session: Session, names: Sequence[str]) -> set[str]:
    """Return those of `names` that this store has announced or accepted."""
    return set(session.execute(sa.select(epochs.c.name).where(one_of(session, epochs.c.name, names))).scalars())


def accept(session: Session, foreign: Sequence[Epoch]) -> None:
    """Record epochs of another copy as known."""
    for epoch in foreign:
        row = epoch._asdict() | {"is_own": False, "announced_at": Clock(), "confirmed_at": Clock()}
        session.execute(insert_into(session, epochs).values(**row).on_conflict_do_nothing())


def subjects(session: Session, scope: str) -> Iterator[str]:
    """Stream the ids of all of the catalogue's "video" or "user", and of those that `sync_catalog` would take in."""
    known, noted = {
        "video": (videos.c.id, (orphans.c.name_id, orphans.c.unique_id)),
        "user": (users.c.id, (orphans.c.user_id,)),
    }[scope]
    # guard epochs.uploaded_since: what was uploaded and held since a backup is held by nothing once it is taken in
    columns = (known, *noted)
    each = (sa.select(column.label("id")).where(column.is_not(None)) for column in columns)
    return iter(session.execute(sa.union_all(*each), execution_options={"yield_per": 10_000}).scalars())


def obsolete(session: Session, limit: int) -> list[str]:
    """List epochs before the last confirmed one that tell nothing any more: only restores and holds do, for a time."""
    old = sa.or_(epochs.c.kind.not_in(_LASTING), epochs.c.announced_at < Clock(-_KEPT_DAYS * 86_400))
    before = sa.and_(epochs.c.confirmed_at.is_not(None), epochs.c.number < confirmed(session))
    rows = session.execute(sa.select(epochs.c.name).where(before, old).order_by(epochs.c.number).limit(limit))
    return list(rows.scalars())


def forget(session: Session, names: Sequence[str]) -> None:
    """Delete the rows of epochs whose objects were deleted."""
    session.execute(sa.delete(epochs).where(one_of(session, epochs.c.name, names)))


def home(session: Session) -> str:
    """Return what tells this database from a copy of it: SQLite's inode, PostgreSQL's system and database."""
    url = session.get_bind().engine.url
    if url.get_backend_name() == "sqlite":
        return f"sqlite inode {Path(str(url.database)).stat().st_ino}"
    database = "SELECT oid FROM pg_database WHERE datname = current_database()"
    oid = session.execute(sa.text(database)).scalar_one()
    may = "SELECT has_function_privilege('pg_control_system()', 'execute')"
    system = "SELECT system_identifier FROM pg_control_system()"
    where = session.execute(sa.text(system)).scalar_one() if session.execute(sa.text(may)).scalar() else "unknown"
    return f"postgresql system {where}, database {oid}"


def why_away(session: Session) -> str | None:
    """Explain how the store itself shows that it was restored or copied, and not adopted since; None: it does not."""
    known = marks(session)
    # guard epochs.restored: a store restored from a backup purges what was restored or held since
    if source := known.get(RESTORED):
        return f"this store was restored from {source}, and does not know what was done since"
    # guard epochs.home: a copy of the store purges what the original has live or held, before that was announced
    if HOME in known and known[HOME] != (here := home(session)):
        return f"this store is a copy, or was moved: it last worked in another database ({known[HOME]}; now {here})"
    return None


def set_marks(session: Session, marks: Mapping[str, str | None]) -> None:
    """Write or remove marks in `controls`: HOME, RESTORED, BEHIND, ADOPTED."""
    for name, text in marks.items():
        if text is None:
            session.execute(sa.delete(_controls).where(_controls.c.name == name))
        else:
            controls.write(session, name, {"is": text})


def marks(session: Session) -> dict[str, str]:
    """Read which of HOME, RESTORED and BEHIND are set."""
    return {name: state["is"] for name, state in controls.remembered(session, [HOME, RESTORED, BEHIND]).items()}
