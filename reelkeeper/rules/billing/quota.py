"""Decide whether more bytes fit into a user's quota. Pure.

A quota counts live videos' bytes, and those reserved by uploads under way. It blocks new bytes, and deletes nothing:
after a downgrade a user keeps the stored videos, and can store more once they fit.
"""

from dataclasses import dataclass

from reelkeeper.errors import AmountRefused
from reelkeeper.model.money import QuotaUse
from reelkeeper.rules.core.tiers import MAX_BYTES, Tiers


@dataclass(frozen=True, slots=True)
class QuotaAnswer:
    """Check whether the bytes fit, and why. `quota_bytes` is None where the tier is unknown."""

    can_upload: bool
    usage_bytes: int
    reserved_bytes: int
    quota_bytes: int | None
    reason: str


def judge(user: QuotaUse, incoming_bytes: int, tiers: Tiers) -> QuotaAnswer:
    """Return whether `incoming_bytes` more fit into the user's quota: used + reserved + incoming <= quota."""
    tier = tiers.get(user.tier)
    granted = tier.quota_bytes if tier else None
    quota = user.override_bytes if user.override_bytes is not None else granted
    taken = user.used_bytes + user.reserved_bytes
    fits = quota is not None and taken + incoming_bytes <= quota
    return QuotaAnswer(fits, user.used_bytes, user.reserved_bytes, quota, _reason(user, incoming_bytes, quota, tiers))


def _reason(user: QuotaUse, incoming_bytes: int, quota: int | None, tiers: Tiers) -> str:
    if quota is None:
        return (
            f"tier {user.tier!r} of user {user.user_id!r} is not one of {', '.join(tiers.names)}, so nothing new can "
            "be stored. The request itself is fine: ask the service's support to set the tier"
        )
    taken = user.used_bytes + user.reserved_bytes
    figures = f"{user.used_bytes:,} bytes used and {user.reserved_bytes:,} reserved of {quota:,}"
    if taken + incoming_bytes <= quota:
        return f"{figures}; {incoming_bytes:,} more leave {quota - taken - incoming_bytes:,}"
    if taken > quota:
        return (
            f"{figures}: {taken - quota:,} over the quota. Nothing is deleted; delete videos, or choose a larger tier"
        )
    return f"{figures}; {incoming_bytes:,} more do not fit. Delete videos, or choose a larger tier"


def require_bytes(size_bytes: int, *, least: int = 0) -> None:
    """Raise AmountRefused unless the size is an integer from `least` to a petabyte. Floats and bools are refused."""
    # guard quota.amount: a negative size frees bytes in a full quota
    if type(size_bytes) is not int or not least <= size_bytes <= MAX_BYTES:
        raise AmountRefused(
            f"{size_bytes!r} bytes: an amount is an integer from {least} to {MAX_BYTES:,}; nothing was changed"
        )
