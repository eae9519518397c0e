"""What becomes of each column of the store when a user is erased, from the table that the erasure follows."""

from collections.abc import Mapping

from docs.generated import tables
from reelkeeper.store.lifecycle.personal_data import FATES, Fate


def table(_argument: str = "") -> str:
    """Give a row for each table that says something of a person; columns that say nothing are left out."""
    return tables.table(("table", "what becomes of it"), [row for row in _rows() if row[1]])


def _rows() -> list[tuple[str, str]]:
    return [(f"`{name}`", told if isinstance(told, Fate) else _columns(told)) for name, told in sorted(FATES.items())]


def _columns(told: Mapping[str, Fate]) -> str:
    by_fate: dict[Fate, list[str]] = {}
    for column, fate in told.items():
        by_fate.setdefault(fate, []).append(f"`{column}`")
    return "; ".join(f"{', '.join(names)}: {fate}" for fate, names in by_fate.items() if fate != Fate.KEPT)
