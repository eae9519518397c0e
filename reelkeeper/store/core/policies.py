"""Store the document of every policy version, and which one is in force.

The deployment row names the version and the digest of its document, so a transaction that has read that row knows both.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, changed
from reelkeeper.store.tables import deployment, policy_versions

VERSION: Final = (deployment.c.policy_version, deployment.c.policy_digest)
_IN_FORCE: Final = sa.select(*VERSION)
_REMEMBERED: Final = "policies in force"  # in a session's info: the transaction that read the row, and its version


class Mark(NamedTuple):
    """A version and the digest of its document. Version 0 is the shipped policies of the store's first release."""

    version: int
    digest: str


class Version(NamedTuple):
    """A version in the history."""

    version: int
    created_at: datetime
    author: str
    reason: str


def in_force(session: Session) -> Mark:
    """Read the version in force, without a query where this transaction has read the deployment row already."""
    transaction, mark = session.info.get(_REMEMBERED, (None, None))
    if mark is not None and transaction is session.get_transaction():
        return Mark(*mark)
    return note(session, *session.execute(_IN_FORCE).one())


def note(session: Session, version: int, digest: str) -> Mark:
    """Remember for this transaction the version that it read from the deployment row."""
    found = Mark(version, digest)
    session.info[_REMEMBERED] = session.get_transaction(), found
    return found


def document(session: Session, version: int) -> dict[str, Any] | None:
    """Read the document of a version; None where there is no such version."""
    chosen = sa.select(policy_versions.c.document).where(policy_versions.c.version == version)
    found: dict[str, Any] | None = session.execute(chosen).scalar()
    return found


def before(session: Session, moment: datetime) -> int:
    """Find the version that was in force just before a moment; 0 where none had been applied."""
    applied = sa.select(sa.func.max(policy_versions.c.version)).where(policy_versions.c.created_at < moment)
    return session.execute(applied).scalar() or 0


def history(session: Session) -> list[Version]:
    """List every version that was applied, the newest first."""
    columns = [policy_versions.c[name] for name in Version._fields]
    applied = sa.select(*columns).where(columns[0] > 0).order_by(columns[0].desc())
    return [Version._make(row) for row in session.execute(applied)]


def put_in_force(
    session: Session, written: dict[str, Any], digest: str, *, after: int, author: str, reason: str
) -> int | None:
    """Insert a version and put it in force; None, and nothing written, if another was applied since `after`."""
    version = after + 1
    # guard policy.after: applying policies undoes another person's policies unnoticed
    swap = sa.update(deployment).where(deployment.c.policy_version == after)
    if not changed(session, swap.values(policy_version=version, policy_digest=digest)):
        return None
    row = {"version": version, "digest": digest, "document": written, "author": author, "reason": reason}
    session.execute(sa.insert(policy_versions).values(row | {"created_at": Clock()}))
    session.info.pop(_REMEMBERED, None)
    return version
