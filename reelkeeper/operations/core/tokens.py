"""Tokens of the HTTP API: made once and shown once, kept as their SHA-256, with scopes, an end, and a last use.

A token has 256 random bits, so a fast hash is enough: there is nothing to guess. Whoever reads the store cannot use
what is in it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from reelkeeper.errors import InputRefused, NotFound
from reelkeeper.model.access import Caller, Scope, TokenLine
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import Clock, changed, reading, transaction
from reelkeeper.store.tables import api_tokens

PREFIX: Final = "rk_"  # so that a scanner for leaked secrets knows one
_CHARACTERS: Final = len(PREFIX) + 43  # 32 bytes in base64url
_MOST_NAME: Final = 100
_NOTED_SECONDS: Final = 300  # a use is written down at most so often
_LISTED = tuple(api_tokens.c[name] for name in TokenLine._fields)


def create(
    engine: Engine, name: str, scopes: Collection[Scope], *, author: str, expires_at: datetime | None = None
) -> tuple[TokenLine, str]:
    """Make a token; the text is given here and never again. Raises InputRefused for no name or no scope."""
    if not 0 < len(name) <= _MOST_NAME or not name.isprintable():
        raise InputRefused(f"a token's name has 1 to {_MOST_NAME} printable characters; nothing was made")
    if not scopes:
        raise InputRefused(f"a token needs a scope: {', '.join(Scope)}; nothing was made")
    text = PREFIX + secrets.token_urlsafe(32)
    with transaction(engine, "tokens.create") as session:
        row = session.execute(
            sa.insert(api_tokens)
            .values(
                id=uuid4().hex[:12],
                name=name,
                sha256=_sha256(text),
                scopes=sorted(scopes),
                created_at=Clock(),
                expires_at=expires_at,
            )
            .returning(*_LISTED)
        ).one()
        line = _line(row)
        append(session, [Event("token_create", author, detail={"token": line.id, "scopes": list(line.scopes)})])
    return line, text


def revoke(engine: Engine, token_id: str, *, author: str) -> None:
    """End a token. One that has ended already stays so. Raises NotFound."""
    with transaction(engine, "tokens.revoke") as session:
        ended = changed(
            session,
            sa.update(api_tokens)
            .where(api_tokens.c.id == token_id, api_tokens.c.revoked_at.is_(None))
            .values(revoked_at=Clock()),
        )
        if ended:
            append(session, [Event("token_revoke", author, detail={"token": token_id})])
        elif not session.execute(sa.select(api_tokens.c.id).where(api_tokens.c.id == token_id)).scalar():
            raise NotFound(f"no token {token_id!r}. To see them: reelkeeper tokens list")


def listed(engine: Engine) -> list[TokenLine]:
    """List all tokens, the newest first."""
    with reading(engine) as session:
        rows = session.execute(sa.select(*_LISTED).order_by(api_tokens.c.created_at.desc(), api_tokens.c.id))
        return [_line(row) for row in rows]


def authenticate(engine: Engine, text: str) -> Caller | None:
    """Find whose token this is; None for one that is unknown, over or revoked, by the database's clock."""
    if not text.isascii() or len(text) != _CHARACTERS or not text.startswith(PREFIX):
        return None
    sha256 = _sha256(text)
    with reading(engine) as session:
        stale = sa.or_(api_tokens.c.last_used_at.is_(None), api_tokens.c.last_used_at < Clock(-_NOTED_SECONDS))
        valid = sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > Clock())
        row = session.execute(
            sa.select(
                api_tokens.c.id, api_tokens.c.name, api_tokens.c.scopes, api_tokens.c.sha256, stale.label("stale")
            ).where(api_tokens.c.sha256 == sha256, api_tokens.c.revoked_at.is_(None), valid)
        ).one_or_none()
    if row is None or not hmac.compare_digest(row.sha256, sha256):
        return None
    if row.stale:
        with transaction(engine, "tokens.use") as session:
            session.execute(sa.update(api_tokens).where(api_tokens.c.id == row.id).values(last_used_at=Clock()))
    return Caller(row.id, row.name, frozenset(row.scopes))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line(row: sa.Row[tuple[object, ...]]) -> TokenLine:
    line = TokenLine._make(row)
    return line._replace(scopes=tuple(line.scopes))
