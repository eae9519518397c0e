"""Store tokens of the HTTP API, found by their SHA-256. Time is the database's."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.token_scopes import Scope, TokenLine
from reelkeeper.store.core.engine import Clock, changed
from reelkeeper.store.tables import api_tokens

_NOTED_SECONDS: Final = 300  # between two records of a token's use
_LISTED = tuple(api_tokens.c[name] for name in TokenLine._fields)


class Valid(NamedTuple):
    """A token that is neither expired nor revoked. `is_stale`: its last use was not recorded recently."""

    id: str
    name: str
    scopes: list[Scope]
    is_stale: bool


def insert(session: Session, name: str, sha256: str, scopes: Sequence[Scope], expires_at: datetime | None) -> TokenLine:
    """Insert a new token; return its entry in the list."""
    row = session.execute(
        sa.insert(api_tokens)
        .values(
            id=uuid4().hex[:12],
            name=name,
            sha256=sha256,
            scopes=scopes,
            created_at=Clock(),
            expires_at=expires_at,
        )
        .returning(*_LISTED)
    ).one()
    return _line(row)


def revoke(session: Session, token_id: str) -> bool:
    """Revoke a token; False where there is none, or it has ended already."""
    ended = changed(
        session,
        sa.update(api_tokens)
        .where(api_tokens.c.id == token_id, api_tokens.c.revoked_at.is_(None))
        .values(revoked_at=Clock()),
    )
    return bool(ended)


def is_known(session: Session, token_id: str) -> bool:
    """Check whether there is, or was, a token of this id."""
    return session.execute(sa.select(api_tokens.c.id).where(api_tokens.c.id == token_id)).scalar() is not None


def listed(session: Session) -> list[TokenLine]:
    """List all tokens, the newest first."""
    rows = session.execute(sa.select(*_LISTED).order_by(api_tokens.c.created_at.desc(), api_tokens.c.id))
    return [_line(row) for row in rows]


def find_valid(session: Session, sha256: str) -> Valid | None:
    """Find the token with this digest, unless it is expired or revoked."""
    stale = sa.or_(api_tokens.c.last_used_at.is_(None), api_tokens.c.last_used_at < Clock(-_NOTED_SECONDS))
    # guard tokens.expiry: a token works after its expiry
    valid = sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > Clock())
    named = sa.select(api_tokens.c.id, api_tokens.c.name, api_tokens.c.scopes, stale.label("stale"))
    # guard tokens.revoked: a revoked token still gives access
    known = named.where(api_tokens.c.sha256 == sha256, api_tokens.c.revoked_at.is_(None), valid)
    row = session.execute(known).one_or_none()
    return Valid(*row) if row else None


def note_use(session: Session, token_id: str) -> None:
    """Record that a token was used now."""
    session.execute(sa.update(api_tokens).where(api_tokens.c.id == token_id).values(last_used_at=Clock()))


def _line(row: sa.Row[tuple[object, ...]]) -> TokenLine:
    line = TokenLine._make(row)
    return line._replace(scopes=tuple(line.scopes))
