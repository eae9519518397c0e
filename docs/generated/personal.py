"""Generate the table of personal data: what an erasure does to each column of the store."""

from collections.abc import Mapping

from docs.generated import tables
from reelkeeper.store.removals.personal_data import FATES, Fate


def table(_argument: str = "") -> str:
    """List the tables with personal data, a row each; columns without any are left out."""
    return tables.table(("table", "what becomes of it"), [row for row in _rows() if row[1]])


def _rows() -> list[tuple[str, str]]:
    return [(f"`{name}`", told if isinstance(told, Fate) else _columns(told)) for name, told in sorted(FATES.items())]


def _columns(told: Mapping[str, Fate]) -> str:
    by_fate: dict[Fate, list[str]] = {}
    for column, fate in told.items():
        by_fate.setdefault(fate, []).append(f"`{column}`")
    return "; ".join(f"{', '.join(names)}: {fate}" for fate, names in by_fate.items() if fate != Fate.KEPT)
