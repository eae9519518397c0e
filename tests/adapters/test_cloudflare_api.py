"""Calls of Cloudflare's API: rate limits, requested waits, retries of transient errors, and helpful refusals."""

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from time import tzset

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.adapters.cloudflare import Client, connect
from reelkeeper.adapters.cloudflare.api import QUERIES_PER_WINDOW, WINDOW_SECONDS, Api
from reelkeeper.adapters.cloudflare.billing import BilledLine
from reelkeeper.adapters.http_clients import retry_after_seconds
from reelkeeper.errors import Misconfigured, TokenRefused, UsageUnknown
from reelkeeper.model.money import StorageClass
from reelkeeper.settings import Settings
from tests.cloudflare import Time
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, CloudflareDouble, Reply, billable_row
from tests.marks import marked

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


def ask(client: Client) -> object:
    return client.usage(YESTERDAY, YESTERDAY)


def failed(message: str, status: int = 200) -> Reply:
    return status, {}, {"data": None, "errors": [{"message": message, "path": ["viewer"]}]}


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [({"Retry-After": "1"}, 1), ({"Retry-After": "1.5"}, 1.5), ({}, 300), ({"Retry-After": "soon"}, 300)],
    ids=["a number", "a fraction", "missing", "nonsense"],
)
def test_a_429_is_waited_out_as_it_asks(
    cloudflare: CloudflareDouble, client: Client, time: Time, retry_after: dict[str, str], seconds: float
) -> None:
    cloudflare.queue = [(429, retry_after, {"errors": [{"message": "rate limiter budget depleted"}]})]
    ask(client)
    assert time.waits == [seconds]


def test_a_429_may_name_a_date(cloudflare: CloudflareDouble, client: Client, time: Time) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    headers = {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(now + timedelta(seconds=9))}
    cloudflare.queue = [(429, headers, "")]
    ask(client)
    assert 7 <= time.waits[0] <= 9  # the server sends a Date of its own besides


def test_a_date_without_a_zone_is_in_utc_wherever_this_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/St_Johns")
    tzset()
    try:
        headers = {"Date": "Sun Nov  6 08:49:37 1994", "Retry-After": "Sun, 06 Nov 1994 08:49:46 GMT"}
        assert retry_after_seconds(headers, 1.0) == 9.0
    finally:
        monkeypatch.undo()
        tzset()


def test_a_429_that_asks_for_an_hour_is_reported_without_waiting(
    cloudflare: CloudflareDouble, client: Client, time: Time
) -> None:
    cloudflare.queue = [(429, {"Retry-After": "3600"}, "")]
    with pytest.raises(UsageUnknown) as refused:
        ask(client)
    assert marked(refused.value) == snapshot(
        "Cloudflare /graphql: HTTP 429; it asks to wait 3,600 s, and at most 330 s are allowed here. The next run tries again"
    )
    assert time.waits == []


def test_a_depleted_budget_may_come_in_a_200(cloudflare: CloudflareDouble, client: Client, time: Time) -> None:
    cloudflare.queue = [failed("rate limiter budget depleted, try again after 5 minutes")]
    ask(client)
    assert time.waits == [WINDOW_SECONDS]


def test_our_own_queries_keep_below_the_limit(api: Api, time: Time) -> None:
    for _ in range(QUERIES_PER_WINDOW + 1):
        api.get("/r2/metrics", "Workers R2 Storage: Read")
    assert time.now == WINDOW_SECONDS


@pytest.mark.parametrize(
    "passing",
    [
        (500, {}, ""),
        (502, {}, "<html>"),
        (503, {}, "{}"),
        (504, {}, ""),
        (524, {}, ""),
        (0, {}, ""),
        (200, {}, "<html>"),
        failed("unable to execute query, please try again later"),
        failed("too many queries in progress, please try again later", 503),
    ],
    ids=["500", "502", "503", "504", "524", "hung up", "no JSON", "unable", "too many"],
)
def test_temporary_failures_are_retried_a_limited_number_of_times(
    cloudflare: CloudflareDouble, client: Client, time: Time, passing: Reply
) -> None:
    cloudflare.queue = [passing] * 3
    ask(client)
    assert len(time.waits) == 3
    assert sum(time.waits) < 15
    cloudflare.queue = [passing] * 4
    with pytest.raises(UsageUnknown, match="4 times"):
        ask(client)
    assert not cloudflare.queue


def test_an_expired_token_is_named_with_the_permissions_that_a_new_one_needs(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.token = "another"  # noqa: S105  what the server now takes
    said = []
    for attempt in (ask, lambda client: client.billed(YESTERDAY, YESTERDAY)):
        with pytest.raises(TokenRefused) as refused:
            attempt(client)
        said.append(marked(refused.value))
        assert "REELKEEPER_CLOUDFLARE_API_TOKEN" in str(refused.value)
        assert TOKEN not in str(refused.value)
        assert isinstance(refused.value, Misconfigured)  # exit code 2
    assert said == snapshot(
        [
            "Cloudflare does not accept REELKEEPER_CLOUDFLARE_API_TOKEN (Unauthorized): it is expired, revoked or mistyped. Make a new one with 'Account Analytics: Read' and, for the billed amounts, 'Billing: Read'",
            "Cloudflare does not accept REELKEEPER_CLOUDFLARE_API_TOKEN (Invalid API Token [1000]): it is expired, revoked or mistyped. Make a new one with 'Account Analytics: Read' and, for the billed amounts, 'Billing: Read'",
        ]
    )


@pytest.mark.parametrize(
    ("lacks", "question", "told"),
    [
        (
            "Account Analytics: Read",
            ask,
            snapshot(
                "REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Account Analytics: Read' on account ID (not authorized for that account); add it under My Profile, API Tokens"
            ),
        ),
        (
            "Billing: Read",
            lambda client: client.billed(YESTERDAY, YESTERDAY),
            snapshot(
                "REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Billing: Read' on account ID (Authentication error [10000]); add it under My Profile, API Tokens"
            ),
        ),
        (
            "Workers R2 Storage: Read",
            lambda client: client.stored_now(),
            snapshot(
                "REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Workers R2 Storage: Read' on account ID (Authentication error [10000]); add it under My Profile, API Tokens"
            ),
        ),
    ],
)
def test_an_error_names_the_permission_that_a_token_lacks(
    cloudflare: CloudflareDouble, client: Client, lacks: str, question: Callable[[Client], object], told: str
) -> None:
    cloudflare.permissions = ALL - {lacks}
    with pytest.raises(TokenRefused) as refused:
        question(client)
    assert marked(refused.value) == told
    found = client.permissions()
    assert {name for name, error in found.items() if error} == {lacks}


def test_a_refusal_may_come_in_a_200(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.queue = [failed("not authorized for that account")]
    with pytest.raises(TokenRefused) as refused:
        ask(client)
    assert marked(refused.value) == snapshot(
        "REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Account Analytics: Read' on account ID (not authorized for that account); add it under My Profile, API Tokens"
    )


def test_a_wrong_account_is_reported(cloudflare: CloudflareDouble) -> None:
    with pytest.raises(TokenRefused) as refused:
        ask(Client(Api(cloudflare.url, "feed", TOKEN)))
    assert marked(refused.value) == snapshot(
        "Cloudflare gives this token no data of account feed: check REELKEEPER_R2_ACCOUNT_ID, and that the token has 'Account Analytics: Read' on this account"
    )


def test_an_error_in_a_200_is_an_error_even_beside_data(cloudflare: CloudflareDouble, client: Client) -> None:
    partial = {
        "data": {"viewer": {"accounts": [{"rows": []}]}},
        "errors": [{"message": "internal error while resolving", "path": ["viewer", "accounts", "0", "rows"]}],
    }
    cloudflare.queue = [(200, {}, partial)]
    with pytest.raises(UsageUnknown) as refused:
        ask(client)
    assert marked(refused.value) == snapshot(
        "Cloudflare /client/v4/graphql answered 200: internal error while resolving"
    )


def test_a_part_of_a_list_is_not_taken_for_the_whole(cloudflare: CloudflareDouble, client: Client) -> None:
    result = {"success": True, "result": [billable_row("2026-11-01", "R2 Data Storage", 1, "GB-months", 0)]}
    cloudflare.queue = [(200, {}, result | {"result_info": {"count": 1, "total_count": 300}})]
    with pytest.raises(UsageUnknown) as refused:
        client.billed(YESTERDAY, YESTERDAY)
    assert marked(refused.value) == snapshot(
        "Cloudflare /billable-usage: only 1 of 300 rows were received, so they are not used"
    )


def test_the_bill_is_read_by_calendar_month_and_only_r2_is_ours(cloudflare: CloudflareDouble, client: Client) -> None:
    cloudflare.billable = [
        billable_row("2026-10-31", "R2 Storage Class A Operations (First 1M included)", 1_200_000, "Count", 4.5),
        billable_row("2026-11-01", "R2 Data Storage (First 10GB-Month included)", 12.5, "GB-months", 0.000257),
        billable_row("2026-11-01", "Workers CPU ms (first 30M are included)", 5, "", 1),
        billable_row("2026-11-02", "R2 Data Storage (First 10GB-Month included)", 1, "GB-months", 0),
    ]
    lines = client.billed(datetime(2026, 10, 31, tzinfo=UTC).date(), datetime(2026, 11, 1, tzinfo=UTC).date())
    assert [(line.quantity, line.billed_usd) for line in lines] == [
        (Decimal(1_200_000), Decimal("4.5")),
        (Decimal("12.5"), Decimal("0.000257")),
    ]
    spans = [path.partition("?")[2] for _, path, _ in cloudflare.asked]
    assert spans == ["from=2026-10-01&to=2026-10-31", "from=2026-11-01&to=2026-11-30"]


def test_without_version_1_of_the_billing_api_version_2_provides_quantities(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.versions = {"/billable/usage"}
    row = billable_row("2026-11-01", "", 3, "Requests", 0)
    del row["BilledCost"], row["ServiceName"], row["ServiceFamilyName"]
    cloudflare.billable = [row | {"x_BillableMetricName": "R2 Class B", "x_ProductFamilyName": "R2"}]
    day = datetime(2026, 11, 1, tzinfo=UTC).date()
    assert client.billed(day, day) == [BilledLine(day, "R2 Class B", Decimal(3), "Requests", None)]
    cloudflare.versions = set()
    with pytest.raises(UsageUnknown) as refused:
        client.billed(day, day)
    assert marked(refused.value) == snapshot("Cloudflare does not offer this account its billable usage of 2026-11")


def test_stored_bytes_by_class_include_metadata_and_unfinished_uploads(
    cloudflare: CloudflareDouble, client: Client
) -> None:
    cloudflare.metrics = {
        "standard": {
            "published": {"payloadSize": 10, "metadataSize": 1, "objects": 2},
            "uploaded": {"payloadSize": 5, "metadataSize": 0, "objects": 1},
        },
        "infrequentAccess": {"published": {"payloadSize": 7, "metadataSize": 0, "objects": 1}},
    }
    assert client.stored_now() == {StorageClass.STANDARD: 16, StorageClass.INFREQUENT_ACCESS: 7}


def test_without_a_token_there_is_no_client(
    cloudflare: CloudflareDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    assert connect(Settings()) is None
    given = {"R2_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": TOKEN, "CLOUDFLARE_API_URL": cloudflare.url}
    for name, value in {**given, "S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    client = connect(Settings())
    assert client
    ask(client)
    client.close()


def test_the_token_is_in_no_log(cloudflare: CloudflareDouble, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cloudflare.queue = [(500, {}, "")]
    ask(client)
    assert "graphql" in caplog.text
    assert TOKEN not in caplog.text


NAMES = [
    *("data", "viewer", "accounts", "rows", "sum", "max", "dimensions", "requests", "date", "errors", "result", "code"),
    *("payloadSize", "metadataSize", "standard", "published", "ChargePeriodStart", "ServiceName"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def rows(inner: object) -> object:
    return {"data": {"viewer": {"accounts": [{"rows": [inner]}]}}, "errors": None}


@pytest.mark.long("hundreds of generated answers")
@given(
    status=st.sampled_from((200, 200, 400, 403, 404)), body=JSON | JSON.map(rows) | JSON.map(lambda x: {"result": x})
)
@examples(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_is_parsed_or_refused_without_a_crash(
    cloudflare: CloudflareDouble, client: Client, status: int, body: object
) -> None:
    for question in (
        ask,
        lambda client: client.object_reads(YESTERDAY, bucket="b"),
        lambda client: client.billed(YESTERDAY, YESTERDAY),
        lambda client: client.stored_now(),
    ):
        cloudflare.queue = [(status, {}, body)]
        with contextlib.suppress(TokenRefused, UsageUnknown):
            question(client)
        cloudflare.queue = []
