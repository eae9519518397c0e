"""Define the tiers of users: their quotas, the retention of their videos, and their place in the queue. Pure.

A tier is a name and its values; only the shipped names appear in the code. A user with an unknown tier keeps all
videos, and may store nothing new: unknown is not permission.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationInfo, model_validator

from reelkeeper.errors import PolicyRefused, TierRefused
from reelkeeper.rules.core.wording import many

MIB: Final = 2**20
GIB: Final = 2**30
MAX_BYTES: Final = 10**15  # a petabyte at once, or as a quota; more is a mistake
MAX_DAYS: Final = 36_500
MAX_TIERS: Final = 20  # each is a case of the statement that reserves bytes
DOCUMENT: Final = {"is_document": True}  # the context for a person's document, as opposed to a stored version
_MAX_IF_ANY_DAYS: Final = 365
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*\Z")
_MAX_NAME: Final = 32  # characters
_TAKEN: Final = frozenset(  # reserved: words for users without a tier, for a rule that is off, and YAML's own
    {"unknown", "never", "none", "null", "true", "false", "yes", "no", "on", "off"}
)


class TierPolicy(BaseModel):
    """Promises to the users of one tier, and the place of their jobs in the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    retention_days: int | None = Field(
        ge=1,
        le=MAX_DAYS,
        description="Retire the tier's videos when older than this number of days, viewed or not; never: for ever",
    )
    notice_days: int = Field(
        0,
        ge=0,
        le=_MAX_IF_ANY_DAYS,
        description="Days of notice: no rule retires a video of the tier unless the service received video.expiring at "
        "least this number of days before; 0: no notice",
    )
    keep_days: int = Field(
        0,
        ge=0,
        le=_MAX_IF_ANY_DAYS,
        description="Days by which a user's request to keep a video extends its retention; 0: not offered",
    )
    quota_bytes: int = Field(ge=0, le=MAX_BYTES, description="Storage quota of each user, in bytes")
    queue_weight: float = Field(
        1, ge=1, le=1000, description="For order.rule aging: factor by which a job counts as shorter than it is"
    )
    queue_points: int = Field(0, ge=0, le=10**6, description="For order.rule seed: points that a job starts with")


class Tiers(RootModel[dict[str, TierPolicy]]):
    """The tiers by name, from the least to the most paid: at most 20.

    A document that names `tiers` names all of them. Of those that Reelkeeper ships (free, premium and pro), fields that
    are left out are as shipped; any other must have a retention and a quota. A tier with users cannot be removed.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="after")
    def _no_contradiction(self, info: ValidationInfo) -> Self:
        if not 1 <= len(self.root) <= MAX_TIERS:
            raise ValueError(f"{len(self.root)} tiers: there must be 1 to {MAX_TIERS}")
        for name in self.root:
            if not _NAME.match(name) or len(name) > _MAX_NAME or name in _TAKEN:
                raise ValueError(
                    f"{name!r} is no name of a tier: one has at most {_MAX_NAME} lower-case letters, digits, - and _, "
                    f"begins with a letter, and is not one of {', '.join(sorted(_TAKEN))}"
                )
        for (lesser, worse), (better, best) in pairwise(self.root.items()):
            shorter, longer = worse.retention_days, best.retention_days
            if longer is not None and (shorter is None or longer < shorter):
                raise ValueError(
                    f"{better} users would lose videos sooner than {lesser} users: {better}.retention_days={longer}, "
                    f"{lesser}.retention_days={'never' if shorter is None else shorter}. They stand from the least to "
                    "the most paid; are they swapped?"
                )
            if info.context == DOCUMENT and best.quota_bytes < worse.quota_bytes:  # earlier versions may have this
                raise ValueError(
                    f"{better} users could store less than {lesser} users: {better}.quota_bytes={best.quota_bytes}, "
                    f"{lesser}.quota_bytes={worse.quota_bytes}. They stand from the least to the most paid; are they "
                    "swapped?"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, from the least to the most paid."""
        return tuple(self.root)

    def get(self, name: str | None) -> TierPolicy | None:
        """Return the tier of this name; None if there is none, or no name is given."""
        return self.root.get(name) if name is not None else None

    def items(self) -> Iterator[tuple[str, TierPolicy]]:
        """Return each tier with its name, from the least to the most paid."""
        yield from self.root.items()

    def retention_days(self) -> dict[str, int | None]:
        """Return each tier's retention in days; None is for ever."""
        return {name: tier.retention_days for name, tier in self.root.items()}

    def as_defaults(self, unwatched_days: int) -> str:
        """Describe these retentions as defaults, which nobody has changed, as the days after which cold videos go."""
        kept = (f"{name} for {many(days, 'day') if days else 'ever'}" for name, days in self.retention_days().items())
        return (
            f"By Reelkeeper's defaults, as nobody has set others: videos are kept by tier, {', '.join(kept)}, and "
            f"those that nobody watches, of all tiers, for {many(unwatched_days, 'day')}. To set "
            "yours: reelkeeper policy show > policies.yaml; reelkeeper policy apply policies.yaml --reason TEXT"
        )

    def notice_days(self) -> dict[str, int]:
        """Return each tier's days of notice before a retirement; 0: none."""
        return {name: tier.notice_days for name, tier in self.root.items()}

    def quota_bytes(self) -> dict[str, int]:
        """Return each tier's quota in bytes."""
        return {name: tier.quota_bytes for name, tier in self.root.items()}

    @cached_property
    def by_retention(self) -> dict[int | None, "Tiers"]:
        """A cache of `keeping`, by days."""
        return {}

    def keeping(self, days: int | None) -> "Tiers":
        """Return the tiers with the same retention in days for all; None is for ever."""
        if days not in self.by_retention:
            tiers = {name: tier.model_copy(update={"retention_days": days}) for name, tier in self.root.items()}
            self.by_retention[days] = Tiers.model_construct(tiers)
        return self.by_retention[days]

    def remaining_days(self, tier: str | None, created_at: datetime | None, as_of: datetime) -> int | None:
        """Return the days left of a video's life by its user's tier; None: for ever, or unknown."""
        known = self.get(tier)
        kept = known.retention_days if known else None
        return None if kept is None or created_at is None else max(0, kept - (as_of - created_at).days)

    def require_retention(self, flow: str) -> None:
        """Raise PolicyRefused unless some tier has a limited retention: an empty policy is a mistake."""
        if all(tier.retention_days is None for tier in self.root.values()):
            raise PolicyRefused(
                f"empty policy: retention_days of {' and '.join(self.root)} are all never, so {flow} could do nothing. "
                f"Switch one on, or pause the schedule of {flow}"
            )

    def require_known(self, name: str) -> None:
        """Raise TierRefused, with the existing names, for an unknown tier."""
        # guard tiers.known: a user is put in an unknown tier, with no promises and no quota
        if name not in self.root:
            raise TierRefused(f"tier {name!r} is not one of {', '.join(self.root)}; nothing was changed")


SHIPPED: Final = Tiers(
    {
        "free": TierPolicy(retention_days=30, quota_bytes=100 * MIB),
        "premium": TierPolicy(retention_days=90, quota_bytes=GIB, queue_weight=1.5, queue_points=100),
        "pro": TierPolicy(retention_days=365, quota_bytes=10 * GIB, queue_weight=2, queue_points=200),
    }
)
