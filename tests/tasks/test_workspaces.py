"""The workspace of a flow, and what Prefect sees of it."""

import pytest
import sqlalchemy as sa

from reelkeeper.errors import NotFound
from reelkeeper.settings import settings
from tasks import runs


def test_an_error_on_its_way_to_prefect_names_no_user(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", str(sqlite_engine.url))
    settings.cache_clear()
    with pytest.raises(NotFound) as raised, runs.store():
        raise NotFound("no user 'ann' in the catalogue; nothing was done")
    settings.cache_clear()
    assert str(raised.value).split("'")[1::2] == ["***"]
