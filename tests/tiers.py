"""Tiers for tests: the shipped ones with other values, and generated ones."""

from typing import Any

from hypothesis import strategies as st

from reelkeeper.rules.core.tiers import _TAKEN, MAX_BYTES, MAX_DAYS, MAX_TIERS, SHIPPED, TierPolicy, Tiers


def tiers(**fields: dict[str, Any]) -> Tiers:
    """Return those that are shipped, with other `fields` by tier: `tiers(free={"retention_days": 7})`."""
    plain = SHIPPED.model_dump()
    return Tiers.model_validate(plain | {name: plain[name] | changed for name, changed in fields.items()})


FOR_EVER = tiers(free={"retention_days": None}, premium={"retention_days": None}, pro={"retention_days": None})
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,9}([-_][a-z0-9]{1,9})?", fullmatch=True).filter(lambda name: name not in _TAKEN)


@st.composite
def any_tiers(draw: st.DrawFn, *, max_days: int = MAX_DAYS) -> Tiers:
    """Draw 1 to 20 tiers that contradict nothing."""
    names = draw(st.lists(NAMES, min_size=1, max_size=MAX_TIERS, unique=True))
    days = [draw(st.none() | st.integers(1, max_days)) for _ in names]
    sizes = sorted(draw(st.integers(0, MAX_BYTES)) for _ in names)
    kept = sorted(days, key=lambda number: number or 10**9)
    return Tiers(
        {
            name: TierPolicy(
                retention_days=retention_days,
                quota_bytes=quota_bytes,
                notice_days=draw(st.integers(0, 365)),
                keep_days=draw(st.integers(0, 365)),
                queue_weight=draw(st.floats(1, 1000)),
                queue_points=draw(st.integers(0, 1000)),
            )
            for name, retention_days, quota_bytes in zip(names, kept, sizes, strict=True)
        }
    )
