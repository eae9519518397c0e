"""Let an erasure replace the user's id in the reason of another user's transfer."""

from alembic import op

revision = "0024"
down_revision = "0023"

_FIXED = ("id", "kind", "hold_id", "amount_microusd", "at")
_SAME = ("user_id", "idempotency_key", "request_sha256")  # while only the reason changes
_OF_THE_USER = "substr(NEW.user_id, 1, 7) <> 'erased-'"
_SQLITE = """
CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers
WHEN {condition}
BEGIN SELECT RAISE(ABORT, 'transfers is append-only'); END
"""
_POSTGRESQL = """
CREATE TRIGGER transfers_only_erased BEFORE UPDATE ON transfers
FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_ledger_change()
"""


def upgrade() -> None:
    """Replace the trigger that refuses updates."""
    same = " AND ".join(f"NEW.{name} = OLD.{name}" for name in _SAME)
    # guard ledger.only_erased: a mistaken statement gives a move of credits to another user
    unless_erased = f"{_OF_THE_USER} AND NOT ({same} AND CAST(NEW.detail AS TEXT) LIKE '%erased-%')"
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    other = "IS NOT" if is_sqlite else "IS DISTINCT FROM"
    condition = " OR ".join([f"({unless_erased})", *(f"NEW.{name} {other} OLD.{name}" for name in _FIXED)])
    op.execute(f"DROP TRIGGER transfers_{'no_update' if is_sqlite else 'only_erased ON transfers'}")
    op.execute((_SQLITE if is_sqlite else _POSTGRESQL).format(condition=condition))
