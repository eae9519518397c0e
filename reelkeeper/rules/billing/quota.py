"""How many bytes a user may store, and whether so many more fit. Pure.

A quota counts the live videos' bytes, and those promised to uploads under way. It blocks what is new and deletes
nothing: after a downgrade a user keeps what is stored, and stores no more until it fits.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.errors import AmountRefused
from reelkeeper.model import Tier
from reelkeeper.model.money import Standing

MIB: Final = 2**20
GIB: Final = 2**30
MAX_BYTES: Final = 10**15  # a petabyte at once, or as a quota: what is more is a mistake


class QuotaPolicy(BaseModel):
    """What each tier may store. A tier that is not among these may store nothing new: unknown is not allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    free_bytes: int = Field(100 * MIB, ge=0, le=MAX_BYTES, description="Bytes that a free user may store: 100 MiB")
    premium_bytes: int = Field(GIB, ge=0, le=MAX_BYTES, description="The same for premium users: 1 GiB")
    pro_bytes: int = Field(10 * GIB, ge=0, le=MAX_BYTES, description="The same for pro users: 10 GiB")

    count_deleted_until_purged: bool = Field(
        False,
        description="Count a video that its user deleted until its bytes are purged; false: it is free at once",
    )

    def by_tier(self) -> dict[str, int]:
        """Give the bytes by the tier's name."""
        return {Tier.FREE: self.free_bytes, Tier.PREMIUM: self.premium_bytes, Tier.PRO: self.pro_bytes}


@dataclass(frozen=True, slots=True)
class QuotaAnswer:
    """Whether so many more bytes fit, and why. `quota_bytes` is None where the tier is unknown."""

    can_upload: bool
    usage_bytes: int
    reserved_bytes: int
    quota_bytes: int | None
    reason: str


def judge(user: Standing, incoming_bytes: int, policy: QuotaPolicy) -> QuotaAnswer:
    """Tell whether `incoming_bytes` more fit into the user's quota: used + reserved + incoming <= quota."""
    quota = user.override_bytes if user.override_bytes is not None else policy.by_tier().get(user.tier or "")
    taken = user.used_bytes + user.reserved_bytes
    fits = quota is not None and taken + incoming_bytes <= quota
    return QuotaAnswer(fits, user.used_bytes, user.reserved_bytes, quota, _reason(user, incoming_bytes, quota))


def _reason(user: Standing, incoming_bytes: int, quota: int | None) -> str:
    if quota is None:
        return (
            f"tier {user.tier!r} of user {user.user_id!r} is none of {', '.join(Tier)}, so nothing new can be stored. "
            "Nothing is wrong with what was asked: ask the service's support to set the tier"
        )
    taken = user.used_bytes + user.reserved_bytes
    figures = f"{user.used_bytes:,} bytes used and {user.reserved_bytes:,} reserved of {quota:,}"
    if taken + incoming_bytes <= quota:
        return f"{figures}; {incoming_bytes:,} more leave {quota - taken - incoming_bytes:,}"
    if taken > quota:
        return f"{figures}: {taken - quota:,} over it. Nothing is deleted; delete videos, or take a larger tier"
    return f"{figures}; {incoming_bytes:,} more do not fit. Delete videos, or take a larger tier"


def require_bytes(size_bytes: int, *, least: int = 0) -> None:
    """Raise AmountRefused unless it is an integer from `least` to a petabyte. A float or a bool is none."""
    # guard quota.amount: a negative number of bytes makes room in a full quota
    if type(size_bytes) is not int or not least <= size_bytes <= MAX_BYTES:
        raise AmountRefused(
            f"{size_bytes!r} bytes: an amount is an integer from {least} to {MAX_BYTES:,}; nothing was changed"
        )
