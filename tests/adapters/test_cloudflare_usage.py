"""Usage from Cloudflare: summed over pages, with missing data left unknown."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.adapters.cloudflare import Client
from reelkeeper.adapters.cloudflare.api import Api
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from tests.doubles.analytics import Operation, Stored
from tests.doubles.cloudflare import CloudflareDouble
from tests.marks import marked

TODAY = datetime.now(UTC).date()
YESTERDAY, BEFORE = TODAY - timedelta(days=1), TODAY - timedelta(days=2)
STANDARD, INFREQUENT = StorageClass.STANDARD, StorageClass.INFREQUENT_ACCESS


def at(day: date, hour: int = 0, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), UTC)


def counted(day: date, action: str, quantity: int, kind: StorageClass = STANDARD, *, sampled: bool = False) -> Used:
    return Used(day, Metric.OPERATIONS, quantity, action, kind, "", UsageSource.CLOUDFLARE, sampled)


def test_operations_are_counted_by_day_action_and_class(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [
        Operation(at(BEFORE, 23, 59), "PutObject", requests=3),
        Operation(at(YESTERDAY), "PutObject", requests=4),
        Operation(at(YESTERDAY, 12), "PutObject", requests=5, bucket="other"),
        Operation(at(YESTERDAY, 12), "GetObject", requests=6, storage_class="InfrequentAccess", response_bytes=700),
        Operation(at(TODAY), "GetObject", requests=1),
    ]
    found = client.usage(BEFORE, YESTERDAY)
    assert found.used == [
        counted(BEFORE, "PutObject", 3),
        counted(YESTERDAY, "GetObject", 6, INFREQUENT),
        counted(YESTERDAY, "PutObject", 9),
        Used(YESTERDAY, Metric.RETRIEVED_BYTES, 700, "", INFREQUENT, "", UsageSource.CLOUDFLARE),
    ]
    assert [usage.quantity for usage in client.usage(YESTERDAY, YESTERDAY, bucket="other").used] == [5]


def test_unbilled_operations_are_not_counted(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [
        Operation(at(YESTERDAY), "PutObject", requests=status, status=status) for status in (200, 401, 403, 412, 500)
    ]
    assert client.usage(YESTERDAY, YESTERDAY).used == [counted(YESTERDAY, "PutObject", 612)]


def test_storage_is_the_peak_of_the_day_with_metadata_by_bucket_and_class(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.stored = [
        Stored(at(YESTERDAY, 1), 10**15, 5),
        Stored(at(YESTERDAY, 2), 10**14),
        Stored(at(YESTERDAY, 2), 7, bucket="b"),
        Stored(at(YESTERDAY, 2), 8, bucket="b", storage_class="InfrequentAccess"),
    ]
    stored = [
        (usage.resource, usage.storage_class, usage.quantity) for usage in client.usage(YESTERDAY, YESTERDAY).used
    ]
    assert stored == [("b", INFREQUENT, 8), ("b", STANDARD, 7), ("reelkeeper", STANDARD, 10**15 + 5)]


def test_days_without_data_are_missing_and_not_zero(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY), "PutObject")]
    cloudflare.stored = [Stored(at(BEFORE), 1)]
    missing = client.usage(BEFORE, YESTERDAY).missing
    assert missing == {Metric.OPERATIONS: [BEFORE], Metric.STORED_BYTES: [YESTERDAY]}


def test_days_that_cloudflare_no_longer_keeps_and_days_to_come_are_missing(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    today = datetime.now(UTC).date()
    cloudflare.operations = [Operation(at(today - timedelta(days=n)), "PutObject") for n in range(60)]
    found = client.usage(today - timedelta(days=40), today + timedelta(days=2))
    assert len(found.used) == 31
    missing = found.missing[Metric.OPERATIONS]
    assert (missing[0], missing[-1], len(missing)) == (today - timedelta(days=40), today + timedelta(days=2), 12)
    assert client.usage(today + timedelta(days=3), today + timedelta(days=4)).used == []


@pytest.mark.long("hundreds of generated months")
@given(data=st.data(), page_rows=st.integers(2, 12))
@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_of_any_size_add_up_to_the_same(
    cloudflare: CloudflareDouble, api: Api, data: st.DataObject, page_rows: int
) -> None:
    moments = st.integers(0, 3 * 1440 - 1).map(lambda minute: at(BEFORE) + timedelta(minutes=minute))
    operations = st.builds(
        Operation, moments, st.sampled_from(("GetObject", "PutObject", "ListObjects")), requests=st.integers(1, 10**6)
    )
    distinct = st.lists(
        operations, max_size=40, unique_by=lambda operation: operation.at
    )  # a page takes a minute's rows
    cloudflare.operations = [operation for operation in data.draw(distinct) if operation.at < at(TODAY)]
    cloudflare.stored = data.draw(st.lists(st.builds(Stored, moments, st.integers(0, 10**15)), max_size=20))
    whole = Client(api).usage(BEFORE, YESTERDAY)
    assert Client(api, page_rows=page_rows).usage(BEFORE, YESTERDAY) == whole
    assert sum(usage.quantity for usage in whole.used if usage.metric == Metric.OPERATIONS) == sum(
        operation.requests for operation in cloudflare.operations
    )


def test_a_minute_with_more_rows_than_a_page_is_refused_and_not_cut(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY, 7), f"Action{n}") for n in range(11)]
    with pytest.raises(UsageUnknown) as refused:
        client.usage(YESTERDAY, YESTERDAY)
    assert marked(refused.value) == snapshot(
        "Cloudflare has more than 10 rows for the minute of DAY TIME UTC, and returns no more at once, so the result is incomplete and is not used"
    )


def test_sampled_figures_are_marked(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY), "PutObject", requests=50)]
    cloudflare.sampled = True
    assert client.usage(YESTERDAY, YESTERDAY).used == [counted(YESTERDAY, "PutObject", 50, sampled=True)]


def test_figures_without_a_confidence_count_as_sampled(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY), "PutObject")]
    cloudflare.has_confidence = False
    assert client.usage(YESTERDAY, YESTERDAY).used == [counted(YESTERDAY, "PutObject", 1, sampled=True)]
    asked = len(cloudflare.asked)
    client.usage(YESTERDAY, YESTERDAY)
    assert len(cloudflare.asked) == asked + 2  # it is not asked for a second time


@given(counts=st.dictionaries(st.text("abc/.é ", min_size=1), st.integers(1, 10**9), max_size=45))
@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_objects_reads_are_counted_over_all_pages(
    cloudflare: CloudflareDouble, client: Client, counts: dict[str, int]
) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY, 3), "GetObject", key, n) for key, n in counts.items()]
    assert client.object_reads(YESTERDAY, bucket="reelkeeper").by_key == counts


def test_only_successful_reads_of_the_day_and_bucket_count(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.operations = [
        Operation(at(YESTERDAY, 3), "GetObject", "k"),
        Operation(at(YESTERDAY, 4), "GetObject", "k"),
        Operation(at(YESTERDAY, 4), "HeadObject", "k"),
        Operation(at(YESTERDAY, 4), "GetObject", "k", status=404),
        Operation(at(YESTERDAY, 4), "GetObject", "k", bucket="other"),
        Operation(at(BEFORE, 23), "GetObject", "k"),
        Operation(at(TODAY), "GetObject", "k"),
    ]
    assert client.object_reads(YESTERDAY, bucket="reelkeeper").by_key == {"k": 2}


def test_reads_are_complete_only_with_data_for_each_hour_and_without_sampling(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.operations = [Operation(at(YESTERDAY, hour), "ListObjects") for hour in range(24)]
    cloudflare.operations.append(Operation(at(YESTERDAY, 5), "GetObject", "k"))
    reads = client.object_reads(YESTERDAY, bucket="reelkeeper")
    assert (reads.sampled, reads.quiet_hours) == (False, ())
    cloudflare.sampled = True
    assert client.object_reads(YESTERDAY, bucket="reelkeeper").sampled
    cloudflare.sampled = False
    cloudflare.operations = [operation for operation in cloudflare.operations if operation.at.hour not in {0, 17}]
    reads = client.object_reads(YESTERDAY, bucket="reelkeeper")
    assert (reads.sampled, reads.quiet_hours) == (False, (0, 17))


def test_pages_out_of_order_are_refused(cloudflare: CloudflareDouble, client: Client) -> None:
    rows = [{"dimensions": {"objectName": f"k{n}"}, "sum": {"requests": 1}, "confidence": None} for n in (*range(9), 0)]
    cloudflare.queue = [(200, {}, {"data": {"viewer": {"accounts": [{"rows": rows}]}}, "errors": None})]
    with pytest.raises(UsageUnknown) as refused:
        client.object_reads(YESTERDAY, bucket="reelkeeper")
    assert marked(refused.value) == snapshot("Cloudflare's reads of DAY are not in order: 'k0' after 'k8'")


@pytest.mark.parametrize(
    "rows",
    [None, {}, [None], [{"dimensions": {"date": "2026-11-01"}}], [{"dimensions": {}, "sum": {"requests": None}}]],
    ids=["none", "no list", "a null row", "no sum", "a null sum"],
)
def test_rows_of_another_shape_are_an_error_and_not_a_zero(
    cloudflare: CloudflareDouble, client: Client, rows: object
) -> None:
    cloudflare.queue = [(200, {}, {"data": {"viewer": {"accounts": [{"rows": rows}]}}, "errors": None})]
    with pytest.raises(UsageUnknown):
        client.usage(YESTERDAY, YESTERDAY)
