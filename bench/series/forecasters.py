"""Forecast many series, with our code and the peer's, cached on disk: the same code forecasts a series only once."""

import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.report import peers_python
from bench.series.load import KEPT, ROOT
from reelkeeper.rules.forecast.ensemble import Fan, fan
from reelkeeper.rules.forecast.series import Values

SOURCES: Final = ("series", "members", "ensemble")  # the code that determines a forecast

ForecastRequest = tuple[Values, int, int]  # history, season, horizon


def ours(asked: Sequence[ForecastRequest]) -> list[tuple[Fan, float]]:
    """Return the ensemble forecast of each series, and the CPU seconds when it was computed."""
    folder = ROOT / "reelkeeper" / "rules" / "forecast"
    code = b"".join((folder / f"{name}.py").read_bytes() for name in SOURCES)
    kept = KEPT / f"ours-{hashlib.sha256(code).hexdigest()[:12]}.jsonl"
    known = {row["key"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    found = []
    with kept.open("a") as file:
        for history, season, horizon in asked:
            key = hashlib.sha256(history.tobytes() + f"{season}/{horizon}".encode()).hexdigest()[:24]
            if key not in known:
                started = time.process_time()
                made = fan(history, season, horizon)
                cpu = time.process_time() - started
                known[key] = {"key": key, "paths": made.paths.tolist(), "names": made.names, "cpu_seconds": cpu}
                file.write(json.dumps(known[key]) + "\n")
            row = known[key]
            found.append((Fan(np.array(row["paths"]), tuple(row["names"]), ""), float(row["cpu_seconds"])))
    return found


def auto_ets(asked: Sequence[ForecastRequest]) -> list[tuple[Values, float]]:
    """Forecast each series with statsforecast's AutoETS: (path, CPU seconds). Raises MissingPeersError."""
    text = json.dumps([{"history": y.tolist(), "season": season, "horizon": h} for y, season, h in asked])
    name = KEPT / f"autoets-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    question, answer = name.with_suffix(".asked.json"), name.with_suffix(".json")
    if not answer.exists():
        question.write_text(text)
        command = [peers_python(), Path(__file__).with_name("autoets.py"), question, answer]
        subprocess.run(command, check=True, timeout=3600)
        question.unlink()
    rows: list[dict[str, Any]] = json.loads(answer.read_text())
    return [(np.array(row["path"]), float(row["cpu_seconds"])) for row in rows]
