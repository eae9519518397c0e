"""Fixtures of the store's tests: a store in which two users have the same rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.databases import opened_copy
from tests.store.two_users import give_rows, send_jobs


@pytest.fixture(scope="session")
def filled_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the rows of ann and bob, and a vendor's job of each. Copy it, do not open it."""
    path = tmp_path_factory.mktemp("filled") / "store.sqlite3"
    with opened_copy(migrated_file, path) as engine:
        give_rows(engine, "ann", "bob")
        send_jobs(engine, "ann", "bob")
    return path


@pytest.fixture
def filled_engine(filled_file: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh store with these rows."""
    with opened_copy(filled_file, tmp_path / "store.sqlite3") as engine:
        yield engine
