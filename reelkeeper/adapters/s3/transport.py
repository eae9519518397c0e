"""A boto3 client configured for R2, the translation of its errors, and the waits between attempts."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as HTTPConnectionError
from botocore.handlers import add_expect_header, validate_ascii_metadata

from reelkeeper.adapters.http_clients import is_loopback
from reelkeeper.errors import ObjectChanged, ObjectLocked, ObjectMissing, OnTrial, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ResponseMetadataTypeDef

ATTEMPTS = 7  # of one request; the waits between them add up to 23 to 47 s, longer than a server's restart
MAX_WAIT_SECONDS = 16
LOCKED = "ObjectLockedByBucketPolicy"  # R2's bucket locks (error 10069)
SILENCE_SECONDS = 60  # between two bytes, not for a whole video
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})  # R2's "Error codes": the 1st, 2nd and 4th may be transient
_READING = ("Get", "Head", "List")  # how the names of S3's requests begin that change nothing
_READ_ONLY: Final = WeakKeyDictionary[Any, str | None]()  # the clients that refuse all others; where it is live
_SESSION = boto3.Session()  # one for all clients, as reading S3's model takes 130 ms
_OPENING = threading.Lock()  # clients may be shared between threads, but not created in parallel


class Patience(NamedTuple):
    """A client's timeouts in seconds, and its number of attempts."""

    attempts: int = ATTEMPTS  # of one request, at most
    silence_seconds: float = SILENCE_SECONDS  # between two bytes
    before_retry: Callable[[], None] | None = None  # called after a transient failure; what it raises ends the request


OUTLAST_RESTART: Final = Patience()


def open_client(
    endpoint_url: str,
    access_key_id: str,
    secret_access_key: str,
    region: str = "auto",
    patience: Patience = OUTLAST_RESTART,
) -> "S3Client":
    """Return a client for the S3 endpoint. Sends nothing."""
    config = Config(
        signature_version="s3v4",  # the only checksum that R2 checks
        s3={"addressing_style": "path"},  # R2 has one host for all buckets of an account
        request_checksum_calculation="when_required",  # R2 refuses the trailing checksums that boto3 adds
        response_checksum_validation="when_required",  # we compare our own digests of whole objects
        retries={"total_max_attempts": 1},  # we retry ourselves: botocore waits only 50 ms after a 500
        connect_timeout=5,
        read_timeout=patience.silence_seconds,
        max_pool_connections=32,  # more than all our threads together
        tcp_keepalive=True,
        proxies={} if is_loopback(endpoint_url) else None,
    )
    with _OPENING:
        client: S3Client = _SESSION.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            region_name=region,
            config=config,
        )
    again: Any = partial(
        _again, limit=patience.attempts, before=patience.before_retry
    )  # botocore's stubs forget that this event is answered
    client.meta.events.register_first("needs-retry.s3", again)
    # Cloudflare answers no `Expect: 100-continue`, so botocore would wait a second before each body.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    # A result keeps its source's metadata, which other programs may have written in UTF-8.
    client.meta.events.unregister("before-parameter-build.s3.PutObject", validate_ascii_metadata)
    return client


@contextmanager
def translate_errors(request: str) -> Iterator[None]:
    """Translate boto3's errors into ours, naming the request."""
    try:
        yield
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response["Error"].get("Code")
        # an S3 server lists a bucket without objects as empty: one that answers 404 to a listing is none
        if status == 404 and code != "NoSuchBucket" and not request.startswith("LIST"):  # noqa: PLR2004  HTTP's not found
            raise ObjectMissing(f"{request}: no such object") from error
        if status == 412:  # noqa: PLR2004  HTTP's precondition failed
            raise ObjectChanged(f"{request}: the stored object does not match the condition") from error
        if code == LOCKED:
            raise ObjectLocked(f"{request}: {cause(error)}") from error
        raise StorageError(f"{request}: {cause(error)}") from error
    except BotoCoreError as error:
        raise StorageError(f"{request}: {cause(error)}") from error


def cause(error: Exception) -> str:
    """Return `Code: message` of an error of boto3."""
    if isinstance(error, ClientError):
        answer = error.response["Error"]
        code = answer.get("Code", "unknown")
        reads = code == "AccessDenied" and error.operation_name.startswith(("Get", "Head", "List"))
        return f"{code}: {answer.get('Message')}{_NOT_READ if reads else _WAY_OUT.get(code, '')}"
    return f"{type(error).__name__}: {error}{_whom_to_ask(error)}"


def place_of(endpoint_url: str) -> str:
    """Return `host, port 443` of an endpoint."""
    at = urlsplit(endpoint_url)
    return f"{at.hostname}, port {at.port or {'http': 80}.get(at.scheme, 443)}"


def _whom_to_ask(error: Exception) -> str:
    """Return the address of a request that got no answer, and what to check."""
    facts = getattr(error, "kwargs", {})
    address = facts.get("endpoint_url")
    if not address:
        return ""
    sign = next((reason for kind, reason in _NO_ANSWER if isinstance(error, kind)), "its answer was incomplete")
    if "resolve" in str(facts.get("error")):  # urllib3's NameResolutionError
        sign = "no address is known for that name"
    setting = "REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL"
    return f" ({place_of(str(address))}: {sign}; {setting} has the address of the bucket)"


_NO_ANSWER: tuple[tuple[type[Exception], str], ...] = (
    (SSLError, "the TLS handshake failed: check http or https, and the certificate"),
    (ConnectTimeoutError, "no connection in time: a firewall, or a wrong address"),
    (ReadTimeoutError, "it accepts requests but does not answer: check the server, or a proxy in front of it"),
    (EndpointConnectionError, "nothing listens there: check that the server runs"),
)


_NOT_READ = " (check the name of the bucket, and that the API token may read it)"  # no token is told that there is none
_WAY_OUT = {
    "404": " (no S3 server answers there: check REELKEEPER_R2_ACCOUNT_ID or REELKEEPER_S3_ENDPOINT_URL)",
    "NoSuchBucket": " (create it, or correct REELKEEPER_BUCKET, or --bucket of a scan)",
    "AccessDenied": " (the API token needs Object Read & Write on this bucket)",
    "InvalidAccessKeyId": " (check REELKEEPER_S3_ACCESS_KEY_ID)",
    "SignatureDoesNotMatch": " (check REELKEEPER_S3_SECRET_ACCESS_KEY)",
    "RequestTimeTooSkewed": " (this machine's clock is wrong)",
}


def is_refusal(error: BaseException | None) -> bool:
    """Check whether the server refused the configured bucket or keys, and would do so again."""
    return isinstance(error, ClientError) and error.response["Error"].get("Code") in REFUSALS


REFUSALS = frozenset({"NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Unauthorized"})


def as_stored(header: Any) -> Any:  # noqa: ANN401  a text, or metadata by name
    """Return a header's text as it is stored: botocore sends UTF-8, but takes what it receives for Latin-1."""
    if not isinstance(header, str):
        return {name: as_stored(text) for name, text in header.items()}
    try:
        # guard bucket.headers_beyond_ascii: a download of a compressed video gets a garbled file name
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def date_of(metadata: "ResponseMetadataTypeDef") -> datetime | None:
    """Read the server's clock at its reply from the `ResponseMetadata` of boto3's answer or error, if it has one."""
    date = metadata["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).astimezone(UTC) if date else None


def _again(
    *,
    limit: int,
    before: Callable[[], None] | None,
    attempts: int,
    response: tuple[Any, Any] | None,
    caught_exception: Exception | None,
    **_: object,
) -> float | None:
    """Return the seconds after which botocore shall repeat a request; None: not at all."""
    passing = (
        response[0].status_code in PASSING_STATUSES
        if response
        else isinstance(caught_exception, HTTPConnectionError | HTTPClientError)
    )
    if passing and before:
        before()
    return seconds_before(attempts + 1) if passing and attempts < limit else None


def seconds_before(attempt: int) -> float:
    """Return the wait before attempt 2, 3, ...: a random time of up to 1, 2, 4, ... s, so that clients spread out."""
    return random.uniform(0.5, 1) * min(1 << (attempt - 2), MAX_WAIT_SECONDS)  # noqa: S311  jitter, not a secret


def wait_before(attempt: int) -> None:
    """Wait the time of `seconds_before`."""
    time.sleep(seconds_before(attempt))


def only_read(client: "S3Client", live_at: str | None) -> None:
    """Have `client` raise OnTrial for each request that could change its bucket, before it is sent or signed."""
    if client not in _READ_ONLY:
        _READ_ONLY[client] = live_at
        client.meta.events.register_first("before-parameter-build.s3", partial(_refuse_changes, live_at))


def require_writable(client: "S3Client") -> None:
    """Raise OnTrial before a change that `client` does not send itself, such as a signed delete."""
    if client in _READ_ONLY:
        raise OnTrial(_READ_ONLY[client])


def _refuse_changes(live_at: str | None, model: Any, **_: object) -> None:  # noqa: ANN401  botocore has no types
    if not str(model.name).startswith(_READING):
        raise OnTrial(live_at)
