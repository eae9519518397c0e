"""Fixtures of the sync's tests."""

import pytest

from reelkeeper.operations.sync import orphans


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """LastModified cannot be dated back, so the ages that an orphan must have are taken away."""
    monkeypatch.setattr(orphans, "ORPHAN_MIN_AGE", orphans.ORPHAN_MIN_AGE * 0)
    monkeypatch.setattr(orphans, "ORPHAN_MIN_WATCH", orphans.ORPHAN_MIN_WATCH * 0)
