"""The clauses that protect data, money and access, from their markers in the code."""

from itertools import groupby

from docs.generated import tables
from tests.ablation.guards import guards


def table(_argument: str = "") -> str:
    """Give each guard with its file, by area."""
    found = sorted(guards(), key=lambda guard: guard.name.partition(".")[0])
    rows = []
    for area, several in groupby(found, key=lambda guard: guard.name.partition(".")[0]):
        rows += [(area, guard.prevents, f"`{guard.path}`") for guard in several]
    return tables.table(("area", "what goes wrong without it", "where"), rows)
