"""A clock that tests control: the database's as our statements read it, and the sleeps of this process."""

import time

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import Clock


class MovedClock:
    """Time passes normally, and jumps on demand. `sleep` jumps at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_seconds = 0.0
        self.longest_sleep_seconds = 0.0
        moved = self

        def init(clock: Clock, seconds: float = 0) -> None:
            super(Clock, clock).__init__(sa.literal(float(seconds + moved.ahead_seconds), sa.Float))

        monkeypatch.setattr(Clock, "__init__", init)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_seconds

    def sleep(self, seconds: float) -> None:
        self.ahead_seconds += seconds
        self.longest_sleep_seconds = max(self.longest_sleep_seconds, seconds)
