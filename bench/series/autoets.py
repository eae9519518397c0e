"""Forecast with statsforecast's AutoETS, in the peers' environment, which contains it.

.venv-peers/bin/python bench/series/autoets.py asked.json answered.json
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from statsforecast.models import AutoETS


def main() -> None:
    """Read series, and write the path and CPU seconds of each, after a warm-up for compiling and loading."""
    AutoETS(season_length=7).forecast(y=np.arange(30, dtype=float) % 7 + 1, h=7)
    answers = []
    for each in json.loads(Path(sys.argv[1]).read_text()):
        started = time.process_time()
        found = AutoETS(season_length=each["season"]).forecast(y=np.array(each["history"]), h=each["horizon"])
        cpu_seconds = time.process_time() - started
        answers.append({"path": np.asarray(found["mean"]).tolist(), "cpu_seconds": cpu_seconds})
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
