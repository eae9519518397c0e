"""The clauses that protect data, money and access, from their markers in the code."""

from docs.generated import tables
from tests.ablation.guards import guards


def table(_argument: str = "") -> str:
    """List each guard and the file it stands in, by area."""
    rows = [(guard.name.partition(".")[0], guard.prevents, f"`{guard.path}`") for guard in guards().values()]
    return tables.table(("area", "what goes wrong without it", "where"), sorted(rows, key=lambda row: row[0]))
