"""A migrator killed at any statement leaves the store as it was, and the next one finishes."""

import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.core.schema import VERSIONS, upgrade
from reelkeeper.store.core.snapshots import verify_checksum
from reelkeeper.store.tables import users, videos
from tests.children import FORKED

LATER = (VERSIONS, Path(__file__).parent / "later_versions")
STRIDES = pytest.mark.parametrize(
    "stride", [20, pytest.param(1, marks=[pytest.mark.long, pytest.mark.soak])]
)  # 1: at every statement


def migrate_until(nth: int, url: str, versions: Sequence[Path]) -> None:
    """Upgrade, and die before the `nth` statement or commit."""
    engine, passed = open_engine(url), 0

    def count(*_: object, **__: object) -> None:
        nonlocal passed
        passed += 1
        if passed == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(engine, "before_cursor_execute", count)
    sa.event.listen(engine, "commit", count)
    upgrade(engine, versions)


def outlive_kills(url: str, versions: Sequence[Path], stride: int) -> int:
    """Kill a migrator at each `stride`-th statement until one comes through; return how far it got at the most."""
    before, nth = everything(url), random.randint(1, stride)
    print(f"every {stride} from {nth} on")  # noqa: T201  shown where it fails
    while True:
        child = FORKED.Process(target=migrate_until, args=(nth, url, versions))
        child.start()
        child.join(240)
        if child.exitcode == 0:
            return nth
        assert child.exitcode == -signal.SIGKILL
        assert everything(url) == before, f"changed by a kill at statement {nth}"
        nth += stride


def everything(url: str) -> dict[str, Any]:
    """Every table with its columns and rows."""
    engine, metadata = open_engine(url), sa.MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        found = {
            name: ([column.name for column in table.c], sorted(map(repr, connection.execute(sa.select(table)))))
            for name, table in metadata.tables.items()
        }
    engine.dispose()
    return found


@pytest.mark.long
@STRIDES
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_first_migration_survives_kills(backend: str, stride: int, empty_url: Callable[[str], str]) -> None:
    url = empty_url(backend)
    assert outlive_kills(url, (VERSIONS,), stride) > 40
    assert len(everything(url)["deployment"][1]) == 1


@pytest.mark.long
@STRIDES
def test_a_later_migration_survives_kills(engine: sa.Engine, stride: int) -> None:
    with transaction(engine, "test.fill") as session:
        session.execute(sa.insert(users), [{"id": f"u{n}"} for n in range(50)])
        rows = [{"id": f"v{n}", "user_id": f"u{n}", "state": "live", "generation": 1} for n in range(50)]
        session.execute(sa.insert(videos), rows)
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    assert outlive_kills(url, LATER, stride) > 40
    after = everything(url)
    assert (len(after["users"][1]), len(after["videos"][1])) == (50, 50)
    assert "country" in after["users"][0]
    if engine.dialect.name == "sqlite":
        copies = list(Path(str(engine.url.database)).parent.glob("*.backup"))
        assert copies
        for copy in copies:
            verify_checksum(copy)
