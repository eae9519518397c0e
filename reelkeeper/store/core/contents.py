"""What the tables hold, in figures that a migration must leave as they were: how many rows, and a sum over them all.

The sum does not depend on the order of rows. Its hashes are Python's own, which hold within one process: both sides of
a migration are taken in it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

_MASK = (1 << 64) - 1
_AT_ONCE = 10_000


class Contents(NamedTuple):
    """A table: how many rows it has, and the sum over what stands in `columns`."""

    rows: int
    columns: tuple[str, ...]
    total: int


def contents(connection: sa.Connection, before: Mapping[str, Contents] | None = None) -> dict[str, Contents]:
    """Read every table but Alembic's own, in the columns that it had `before`: a million rows take some seconds."""
    names = sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"})
    return {name: _contents(connection, name, (before or {}).get(name)) for name in names}


def _contents(connection: sa.Connection, name: str, before: Contents | None) -> Contents:
    # What the driver gives is compared: no type of ours need fit an old schema.
    found = connection.execute(sa.select(sa.text("*")).select_from(sa.table(name)), execution_options=_STREAMED)
    there = tuple(found.keys())
    columns = tuple(column for column in before.columns if column in there) if before else there
    places = [there.index(column) for column in columns]
    rows = total = 0
    for row in found:
        rows += 1
        total += hash(repr([row[place] for place in places]))
    return Contents(rows, columns, total & _MASK)


_STREAMED = {"yield_per": _AT_ONCE}


def changes(before: Mapping[str, Contents], after: Mapping[str, Contents]) -> dict[str, str]:
    """Say of each table that is not as before how it differs. A dropped column is a difference, a new one is none."""
    told = {}
    for name, old in before.items():
        new = after.get(name, Contents(0, old.columns, 0))
        if old.rows != new.rows:
            told[name] = f"{name} had {old.rows} rows and has {new.rows}"
        elif dropped := [column for column in old.columns if column not in new.columns]:
            told[name] = f"{name} has no {', '.join(dropped)} any more"
        elif old.total != new.total:
            told[name] = f"{name} has other values than before"
    return told
