"""R2's analytics by GraphQL: operations, peaks of storage, and how often each object was read.

A page has at most 10,000 rows and there are no cursors. Sums and peaks may be taken in parts, so a full page of them is
requested again in halves of its time; reads of objects continue after the last name. "Adaptive" data may be estimated
from a sample: where Cloudflare's confidence interval has a width, or none is given, the figure is marked as sampled.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from reelkeeper.adapters.cloudflare.api import Api, documented
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used

PAGE_ROWS = 10_000  # settings node, maxPageSize
RETAINED_DAYS = 31  # settings node, notOlderThan: 2,678,400 s; the 31st day back is cut, so 30 whole ones remain
KEPT_DAYS = RETAINED_DAYS - 1  # complete days
_NARROWEST = timedelta(minutes=1)
_ONE_DAY = timedelta(days=1)
_CLASSES = {"Standard": StorageClass.STANDARD, "InfrequentAccess": StorageClass.INFREQUENT_ACCESS}
# Billed requests: all but 401 and 403 ("R2: Pricing"), and failures of R2 itself.
_BILLED: dict[str, object] = {
    "actionStatus_in": ["success", "userError"],
    "AND": [{"responseStatusCode_neq": 401}, {"responseStatusCode_neq": 403}],
}
_CONFIDENCE = "confidence(level: 0.95) { sum { requests { lower upper } } }"
_QUERY = """query Reelkeeper($account: string!, $filter: Account%(type)sFilter_InputObject!, $limit: uint64!) {
  viewer { accounts(filter: {accountTag: $account}) {
    rows: %(dataset)s(limit: $limit, filter: $filter, orderBy: [%(order)s]) { %(fields)s }
  } }
}"""

Row = Mapping[str, Any]


class Collected(NamedTuple):
    """The usage of some days, and the days for which Cloudflare has no data: unknown, which is not zero."""

    used: list[Used]
    missing: dict[Metric, list[date]]


class Reads(NamedTuple):
    """Reads of each object of a bucket on a UTC day, by key.

    `quiet_hours` had no operation at all: in a bucket that is listed each hour, their data is missing.
    """

    day: date
    by_key: dict[str, int]
    sampled: bool
    quiet_hours: tuple[int, ...]


class Analytics:
    """Queries of R2's two datasets."""

    def __init__(self, api: Api, *, page_rows: int = PAGE_ROWS) -> None:
        self._api, self._page_rows = api, page_rows
        self._knows_confidence = True

    @documented("count of operations")
    def operations(self, first: date, last: date, bucket: str | None = None) -> list[Used]:
        """Count the billed operations of each day by action and class, and the bytes retrieved of infrequent access."""
        counts: defaultdict[tuple[date, Metric, str, str], int] = defaultdict(int)
        sampled: set[tuple[date, Metric, str, str]] = set()
        fields = "dimensions { date actionType storageClass } sum { requests responseBytes responseObjectSize }"
        for row in self._split("r2Operations", fields, "date_ASC, actionType_ASC", *_span(first, last), bucket):
            day, action = date.fromisoformat(row["dimensions"]["date"]), str(row["dimensions"]["actionType"])
            kind = _class(row)
            amounts = {(day, Metric.OPERATIONS, action, kind): row["sum"]["requests"]}
            if kind == StorageClass.INFREQUENT_ACCESS and (retrieved := _retrieved(action, row["sum"])):
                amounts[day, Metric.RETRIEVED_BYTES, "", kind] = retrieved
            for key, amount in amounts.items():
                counts[key] += amount
                if _is_sampled(row):
                    sampled.add(key)
        return [
            Used(*key[:2], quantity, key[2], key[3], "", UsageSource.CLOUDFLARE, key in sampled)
            for key, quantity in sorted(counts.items())
        ]

    @documented("peak of storage")
    def storage(self, first: date, last: date, bucket: str | None = None) -> list[Used]:
        """Return each day's peak of stored bytes, including metadata, by bucket and class.

        A bucket without writes may have no row; `Client.stored_now` includes it.
        """
        peaks: dict[tuple[date, str, str], int] = {}
        fields = "dimensions { date bucketName storageClass } max { payloadSize metadataSize }"
        for row in self._split("r2Storage", fields, "date_ASC, bucketName_ASC", *_span(first, last), bucket):
            day, name = date.fromisoformat(row["dimensions"]["date"]), str(row["dimensions"]["bucketName"])
            stored = row["max"]["payloadSize"] + row["max"]["metadataSize"]
            key = (day, name, _class(row))
            peaks[key] = max(stored, peaks.get(key, 0))
        return [
            Used(day, Metric.STORED_BYTES, quantity, name, kind, "", UsageSource.CLOUDFLARE)
            for (day, name, kind), quantity in sorted(peaks.items())
        ]

    @documented("count of reads")
    def object_reads(self, day: date, bucket: str) -> Reads:
        """Count the successful GetObject requests of each object; each part of a video that is read in parts counts."""
        start, end = _span(day, day)
        chosen = {"bucketName": bucket, "actionType": "GetObject", "actionStatus": "success"}
        reads: dict[str, int] = {}
        sampled, after = False, ""
        while True:
            wanted = _within(start, end) | chosen | ({"objectName_gt": after} if after else {})
            page = self._page("r2Operations", "dimensions { objectName } sum { requests }", "objectName_ASC", wanted)
            for row in page:
                key = str(row["dimensions"]["objectName"])
                if key <= after and after:
                    raise UsageUnknown(f"Cloudflare's reads of {day} are not in order: {key!r} after {after!r}")
                reads[key], after = row["sum"]["requests"], key
                sampled = sampled or _is_sampled(row)
            if len(page) < self._page_rows:
                break
        quiet_hours, of_a_sample = self._quiet_hours(day, bucket)
        return Reads(day, reads, sampled or of_a_sample, quiet_hours)

    def _quiet_hours(self, day: date, bucket: str) -> tuple[tuple[int, ...], bool]:
        """Return the hours without data, and whether any other hour is estimated from a sample."""
        start, end = _span(day, day)
        fields = "dimensions { datetimeHour } sum { requests }"
        page = self._page("r2Operations", fields, "datetimeHour_ASC", _within(start, end) | {"bucketName": bucket}, 24)
        known = {datetime.fromisoformat(row["dimensions"]["datetimeHour"]).astimezone(UTC).hour for row in page}
        return tuple(hour for hour in range(24) if hour not in known), any(_is_sampled(row) for row in page)

    def _split(
        self, dataset: str, fields: str, order: str, start: datetime, end: datetime, bucket: str | None
    ) -> Iterable[Row]:
        wanted = _within(start, end) | ({} if bucket is None else {"bucketName": bucket})
        page = self._page(dataset, fields, order, wanted | (_BILLED if dataset == "r2Operations" else {}))
        if len(page) < self._page_rows:
            return page
        if end - start <= _NARROWEST:
            raise UsageUnknown(
                f"Cloudflare has more than {self._page_rows:,} rows for the minute of {start:%Y-%m-%d %H:%M} UTC, and "
                "returns no more at once, so the result is incomplete and is not used"
            )
        half = (end - start) / 2
        middle = start + max(_NARROWEST, half - half % _NARROWEST)
        return [
            *self._split(dataset, fields, order, start, middle, bucket),
            *self._split(dataset, fields, order, middle, end, bucket),
        ]

    def _page(
        self, dataset: str, fields: str, order: str, wanted: Mapping[str, object], rows: int | None = None
    ) -> Sequence[Row]:
        operations = dataset == "r2Operations"
        node = f"{dataset}AdaptiveGroups"
        variables = {"filter": dict(wanted), "limit": rows or self._page_rows}

        def ask(fields: str) -> Sequence[Row]:
            query = _QUERY % {
                "type": node[0].upper() + node[1:],
                "dataset": node,
                "order": order,
                "fields": fields,
            }
            found = self._api.graphql(query, variables).get("rows")
            if not isinstance(found, list):
                raise UsageUnknown(f"Cloudflare's answer has no rows of {node}")
            return found

        return _checked(node, self._with_confidence(ask, fields) if operations else ask(fields))

    def _with_confidence(self, ask: Callable[[str], Sequence[Row]], fields: str) -> Sequence[Row]:
        """Query the confidence of the sums as well; if the dataset has none, every row counts as sampled."""
        if self._knows_confidence:
            try:
                return ask(f"{fields} {_CONFIDENCE}")
            except UsageUnknown as error:
                if "unknown field" not in str(error):
                    raise
                self._knows_confidence = False
        return ask(fields)


def _span(first: date, last: date) -> tuple[datetime, datetime]:
    return datetime.combine(first, time(), UTC), datetime.combine(last + _ONE_DAY, time(), UTC)


def _within(start: datetime, end: datetime) -> dict[str, object]:
    return {"datetime_geq": f"{start:%Y-%m-%dT%H:%M:%SZ}", "datetime_lt": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def _class(row: Row) -> StorageClass:
    """Return the storage class; an unknown one counts as standard, like all data before 2024."""
    return _CLASSES.get(str(row["dimensions"].get("storageClass")), StorageClass.STANDARD)


def _retrieved(action: str, amounts: Row) -> int:
    """Return the bytes that an action read from a storage class that charges for it ("R2: Pricing", data retrieval)."""
    if action == "GetObject":
        return int(amounts["responseBytes"])
    return int(amounts["responseObjectSize"]) if action in {"CopyObject", "UploadPartCopy"} else 0


def _is_sampled(row: Row) -> bool:
    if not row.get("confidence"):
        return True
    about = row["confidence"]["sum"]["requests"]
    return bool(about["upper"] - about["lower"] >= 1)


def _checked(dataset: str, rows: Sequence[Any]) -> Sequence[Row]:
    """Return the rows if all amounts are whole and not negative, else raise ValueError: none may be read as zero."""
    for row in rows:
        amounts = row.get("sum") or row["max"]
        if not amounts or any(type(amount) is not int or amount < 0 for amount in amounts.values()):
            raise ValueError(f"a row of {dataset}: {str(row)[:200]}")
    return rows
