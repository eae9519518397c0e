"""Load the public series, exported once by the peers' environment and kept in the system's temporary folder."""

import json
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.report import peers_python

ROOT: Final = Path(__file__).parents[2]
_EXPORT: Final = Path(__file__).with_name("export.py")
KEPT: Final = Path(tempfile.gettempdir()) / f"reelkeeper-bench-{zlib.crc32(_EXPORT.read_bytes()):08x}"
HORIZON: Final = 62  # days: the rest of this month and all of the next
GROWTH_A_DAY: Final = (0.001, 0.012)
SHIFT: Final = (0.15, 0.45)  # log of a level shift, up or down, that half of the growing series have in their history


@dataclass(frozen=True, slots=True)
class Task:
    """A history of daily values, the days that follow, and how much of the current month is in the history."""

    family: str
    name: str
    kind: str  # flat: unchanged; growth: with added growth, and in half of them a level shift
    day: int  # days of the month that are known
    rest: int  # days of the month that are not
    first: pd.Timestamp
    history: npt.NDArray[np.float64]
    actual: npt.NDArray[np.float64]

    @property
    def so_far(self) -> float:
        """The sum of the month's known days."""
        return float(self.history[len(self.history) - self.day :].sum())

    @property
    def series(self) -> "pd.Series[float]":
        """Return the history with its dates."""
        return pd.Series(self.history, pd.date_range(self.first, periods=len(self.history)))


@cache
def exported(name: str) -> Any:  # noqa: ANN401  what the JSON holds
    """Load the exported daily or competition series, and export them first if needed. Raises MissingPeersError."""
    KEPT.mkdir(exist_ok=True)
    if not (KEPT / name).exists():
        command = [peers_python(), _EXPORT, KEPT / "daily.json", KEPT / "competitions.json"]
        subprocess.run(command, check=True, timeout=600)
    return json.loads((KEPT / name).read_text())


def tasks(histories: tuple[int, ...], days: tuple[int, ...], months: int, salt: str) -> list[Task]:
    """Draw `months` months of every series for each length of history, with each day as origin, flat and growing."""
    drawn = []
    for each in exported("daily.json"):
        values = np.array(each["values"])
        dates = pd.date_range(each["start"], periods=len(values))
        firsts = [at for at, date in enumerate(dates) if date.day == 1]
        for length in histories:
            rng = np.random.default_rng(zlib.crc32(f"{salt}/{each['family']}/{each['name']}/{length}".encode()))
            able = [at for at in firsts if at >= length and at + max(days) + HORIZON <= len(values)]
            for at, day in product(rng.permutation(able)[:months], days):
                origin, size = int(at) + day, int(dates[at].days_in_month)
                growth, shift = rng.uniform(*GROWTH_A_DAY), rng.choice([-1, 0, 0, 1]) * rng.uniform(*SHIFT)
                plain = values[origin - length : origin + HORIZON]
                grown = plain * np.exp(growth * np.arange(len(plain)))
                grown[int(length * rng.uniform(0.2, 0.8)) :] *= np.exp(shift)
                for kind, whole in (("flat", plain), ("growth", grown)):
                    history, actual = whole[:length], whole[length:]
                    shape = (day, size - day, dates[origin - length])
                    drawn.append(Task(each["family"], each["name"], kind, *shape, history, actual))
    return drawn
