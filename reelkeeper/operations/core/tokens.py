"""Tokens of the HTTP API: shown once, stored as their SHA-256, with scopes, an expiry, and a last use.

A token has 256 random bits, so a fast hash is enough: it cannot be guessed. Access to the store does not reveal it.
"""

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Final

from reelkeeper.errors import InputRefused, NotFound
from reelkeeper.model.token_scopes import Caller, Scope, TokenLine
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment, tokens
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction

PREFIX: Final = "rk_"  # lets scanners for leaked secrets recognise a token
_CHARACTERS: Final = len(PREFIX) + 43  # 32 bytes in base64url
_MAX_NAME: Final = 100


def create(
    engine: Engine, name: str, scopes: Collection[Scope], *, author: str, expires_at: datetime | None = None
) -> tuple[TokenLine, str]:
    """Create a token; its text is returned here and never again.

    Raises InputRefused without a name or a scope, or for an expiry in the past.
    """
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise InputRefused(f"a token's name must have 1 to {_MAX_NAME} printable characters; no token was made")
    if not scopes:
        raise InputRefused(f"a token needs at least one scope of {', '.join(Scope)}; no token was made")
    text = PREFIX + secrets.token_urlsafe(32)
    with transaction(engine, "tokens.create") as session:
        if expires_at is not None and expires_at <= now(session):
            raise InputRefused(f"a token until {expires_at:%Y-%m-%d %H:%M} UTC would have expired; no token was made")
        # guard tokens.hashed: a reader of the store, or of a backup, gets every token
        line = tokens.insert(session, name, _sha256(text), sorted(scopes), expires_at)
        append(session, [Event("token_create", author, detail={"token": line.id, "scopes": list(line.scopes)})])
    return line, text


def revoke(engine: Engine, token_id: str, *, author: str) -> None:
    """End a token. One that has ended already stays so. Raises NotFound."""
    with transaction(engine, "tokens.revoke") as session:
        deployment.lock(session)
        if tokens.revoke(session, token_id):
            append(session, [Event("token_revoke", author, detail={"token": token_id})])
        elif not tokens.is_known(session, token_id):
            raise NotFound(f"no token {token_id!r}. To see them: reelkeeper tokens list")


def listed(engine: Engine) -> list[TokenLine]:
    """List all tokens, the newest first."""
    with reading(engine) as session:
        return tokens.listed(session)


def authenticate(engine: Engine, text: str) -> Caller | None:
    """Find the token; None if it is unknown, or expired or revoked by the database's clock."""
    if not text.isascii() or len(text) != _CHARACTERS or not text.startswith(PREFIX):
        return None
    with reading(engine) as session:
        found = tokens.find_valid(session, _sha256(text))
    if found is None:
        return None
    if found.is_stale:
        with transaction(engine, "tokens.use") as session:
            tokens.note_use(session, found.id)
    return Caller(found.id, found.name, frozenset(found.scopes))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
