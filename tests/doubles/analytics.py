"""R2's two datasets as Cloudflare's documentation and schema have them: fields, filters, order, pages, and samples."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.doubles.graphql import Field

MAX_ROWS = 10_000  # settings node: maxPageSize
OLDEST = timedelta(days=31)  # settings node: notOlderThan 2,678,400 s


@dataclass(frozen=True)
class Operation:
    """So many requests of one kind, at one moment."""

    at: datetime
    action: str
    key: str = ""
    requests: int = 1
    bucket: str = "reelkeeper"
    status: int = 200
    storage_class: str = "Standard"
    response_bytes: int = 0
    object_bytes: int = 0

    def dimensions(self) -> dict[str, Any]:
        outcome = "success" if self.status < 400 else "userError" if self.status < 500 else "internalError"
        return {
            **_moments(self.at),
            "actionType": self.action,
            "actionStatus": outcome,
            "bucketName": self.bucket,
            "objectName": self.key,
            "responseStatusCode": self.status,
            "storageClass": self.storage_class,
        }

    def amounts(self) -> dict[str, int]:
        return {
            "requests": self.requests,
            "responseBytes": self.response_bytes,
            "responseObjectSize": self.object_bytes,
        }


@dataclass(frozen=True)
class Stored:
    """How much a bucket held at a moment."""

    at: datetime
    payload_bytes: int
    metadata_bytes: int = 0
    bucket: str = "reelkeeper"
    storage_class: str = "Standard"

    def dimensions(self) -> dict[str, Any]:
        return {**_moments(self.at), "bucketName": self.bucket, "storageClass": self.storage_class}

    def amounts(self) -> dict[str, int]:
        return {
            "payloadSize": self.payload_bytes,
            "metadataSize": self.metadata_bytes,
            "objectCount": 1,
            "uploadCount": 0,
        }


class Refusal(Exception):  # noqa: N818  what the server says, not what went wrong in it
    """An error object in the `errors` of an answer."""


def answer(asked: Field, rows: Iterable[Operation | Stored], *, now: datetime, sampled: bool) -> list[dict[str, Any]]:
    """Group, order and cut `rows` as the dataset is asked to, or refuse as Cloudflare does."""
    operations = asked.name == "r2OperationsAdaptiveGroups"
    combine, example = ("sum", Operation(now, "")) if operations else ("max", Stored(now, 0))
    _check(asked, combine, example, now)
    wanted = asked["dimensions"].names()
    groups: defaultdict[tuple[Any, ...], dict[str, int]] = defaultdict(dict)
    for row in rows:
        dimensions = row.dimensions()
        if not _matches(dimensions, asked.arguments["filter"]):
            continue
        totals = groups[tuple(dimensions[name] for name in wanted)]
        for name, amount in row.amounts().items():
            totals[name] = totals.get(name, 0) + amount if operations else max(totals.get(name, 0), amount)
    order = [name.rpartition("_")[0] for name in asked.arguments.get("orderBy", [])]
    keys = sorted(groups, key=lambda key: [key[wanted.index(name)] for name in order])
    return [_row(asked, key, groups[key], combine, sampled=sampled) for key in keys[: int(asked.arguments["limit"])]]


def _row(
    asked: Field, key: tuple[Any, ...], totals: Mapping[str, int], combine: str, *, sampled: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "dimensions": dict(zip(asked["dimensions"].names(), key, strict=True)),
        combine: {name: totals[name] for name in asked[combine].names()},
    }
    if "confidence" in asked.names():
        requests, doubt = totals["requests"], totals["requests"] * 0.1 + 1 if sampled else 0.0
        known = {
            "estimate": requests,
            "lower": requests - doubt,
            "upper": requests + doubt,
            "sampleSize": requests // 10 if sampled else requests,
        }
        asked_for = asked["confidence"]["sum"]["requests"].names()
        found["confidence"] = {"sum": {"requests": {name: known[name] for name in asked_for}}}
    return found


def _check(asked: Field, combine: str, example: Operation | Stored, now: datetime) -> None:
    known = {"dimensions": set(example.dimensions()), combine: set(example.amounts())}
    if combine == "sum":
        known["confidence"] = {"sum"}
    for part in asked.fields:
        for name in [part.name, *part.names()]:
            if part.name not in known or (name != part.name and name not in known[part.name]):
                raise Refusal(f'unknown field "{name}"')
    for name in asked.arguments.get("orderBy", []):
        if name.rpartition("_")[0] not in asked["dimensions"].names():
            raise Refusal(f"cannot order by {name}: it is neither aggregated, nor a dimension")
    limit, chosen = asked.arguments.get("limit", 0), asked.arguments.get("filter", {})
    if not 0 < limit <= MAX_ROWS:
        raise Refusal(f"limit must be positive number and not greater than {MAX_ROWS}")
    start, end = (datetime.fromisoformat(chosen[name]) for name in ("datetime_geq", "datetime_lt"))
    if start < now - OLDEST:
        raise Refusal("cannot request data older than 2678400s")
    if end - start > OLDEST:
        raise Refusal("query time range is too large, maximum is 2678400s")


def _matches(dimensions: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(_holds(dimensions, name, value) for name, value in chosen.items())


def _holds(dimensions: Mapping[str, Any], name: str, value: Any) -> bool:  # noqa: ANN401, PLR0911  one return for each operator
    if name == "AND":
        return all(_matches(dimensions, item) for item in value)
    field, _, operator = name.partition("_")
    if field not in dimensions:
        raise Refusal(f'unknown field "{name}"')
    found = dimensions[field]
    if field == "datetime":
        found, value = datetime.fromisoformat(found), datetime.fromisoformat(value)
    match operator:
        case "":
            return bool(found == value)
        case "geq":
            return bool(found >= value)
        case "gt":
            return bool(found > value)
        case "lt":
            return bool(found < value)
        case "neq":
            return bool(found != value)
        case "in":
            return found in value
    raise Refusal(f'unknown field "{name}"')


def _moments(at: datetime) -> dict[str, str]:
    at = at.astimezone(UTC)
    return {
        "date": f"{at:%Y-%m-%d}",
        "datetime": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "datetimeHour": f"{at:%Y-%m-%dT%H}:00:00Z",
    }


def spread(operation: Operation, hours: Iterable[int]) -> Iterator[Operation]:
    """Return the operation again at each of these hours of its day."""
    return (replace(operation, at=operation.at.replace(hour=hour)) for hour in hours)
