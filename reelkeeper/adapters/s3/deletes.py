"""Delete objects in batches, checking the answer key by key, as it is 200 even if some remain; or by a signed URL.

R2 has no conditional delete, so the last check of the object is made after the request is signed: if the process is
suspended between check and request, its signature has expired, and the server refuses the request. It is signed by the
bucket's clock: signed by ours, it would be valid for longer by as much as ours is ahead.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from reelkeeper.adapters.http_clients import is_loopback
from reelkeeper.adapters.s3.transport import ATTEMPTS, LOCKED, REFUSALS, cause, require_writable, wait_before
from reelkeeper.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteTypeDef

BATCH_KEYS = 1000  # R2's limit for one DeleteObjects (error 10027)
PASSING_ERRORS = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "TooManyRequests"})
# Codes that mean that nothing was or will be deleted (R2: "Error codes"; Amazon S3: "Error responses").
_REFUSED = REFUSALS | {LOCKED, "RequestTimeTooSkewed"}
SIGNED_TIMEOUT_SECONDS = 20
LastLook = Callable[[], None]  # raises if the request must not be sent
_THIS_THREADS = threading.local()


def look_before_sending(client: "S3Client") -> None:
    """Make `client` run a request's last look after signing, each time before it is sent."""
    # guard bucket.last_look: permission is not checked between signing a delete and sending it
    client.meta.events.register("before-send.s3.DeleteObjects", _look)
    # guard bucket.put_last_look: permission is not checked between signing a put over an object and sending it
    client.meta.events.register("before-send.s3.PutObject", _look)


def _look(**_: object) -> None:
    look: LastLook | None = getattr(_THIS_THREADS, "look", None)
    if look is not None:
        look()


@contextmanager
def looking(last_look: LastLook | None) -> Iterator[None]:
    """Make this thread's requests run `last_look` in this context; it raises if a request must not be sent."""
    _THIS_THREADS.look = last_look
    try:
        yield
    finally:
        _THIS_THREADS.look = None


def delete_batch(
    client: "S3Client", bucket: str, keys: list[str], *, last_look: LastLook | None = None
) -> dict[str, str]:
    """Delete at most BATCH_KEYS keys, retrying transient errors; return `key -> "Code: message"` of those that failed.

    It does not check the keys, as `Bucket.delete` has done so. Raises what `last_look` raises.
    """
    with looking(last_look):
        return _delete_batch(client, bucket, keys)


def _delete_batch(client: "S3Client", bucket: str, keys: list[str]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for attempt in range(1, ATTEMPTS + 1):
        request: DeleteTypeDef = {
            "Objects": [{"Key": key} for key in keys]
        }  # not Quiet: a missing report must not count as success
        try:
            answer = client.delete_objects(Bucket=bucket, Delete=request)
        except ClientError as error:
            return failed | dict.fromkeys(keys, _after(cause(error), attempt, dict(error.response["ResponseMetadata"])))
        except BotoCoreError as error:
            return failed | dict.fromkeys(keys, cause(error))
        errors = {entry["Key"]: entry for entry in answer.get("Errors", [])}
        deleted = {entry["Key"] for entry in answer.get("Deleted", [])}
        again = []
        for key in keys:
            if key in errors:
                why = f"{errors[key].get('Code')}: {errors[key].get('Message')}"
                failed[key] = _after(why, attempt, dict(answer["ResponseMetadata"]))
                if errors[key].get("Code") in PASSING_ERRORS:
                    again.append(key)
            elif key in deleted:
                failed.pop(key, None)
            else:
                # guard bucket.not_reported: a delete that the bucket does not report counts as done
                failed[key] = "NotReported: the bucket said neither that it deleted the key nor why not"
        if not again or attempt == ATTEMPTS:
            break
        keys = again
        wait_before(attempt + 1)
    return failed


def _after(why: str, attempt: int, metadata: Mapping[str, Any]) -> str:
    """Mark a refusal of a repeated request, since the first attempt, whose answer was lost, may still take effect."""
    # guard bucket.sent_before: a delete that may still take effect counts as refused, as its second attempt was
    return why if attempt == 1 and not metadata.get("RetryAttempts") else f"Sent again, then {why}"


def was_refused(why: str) -> bool:
    """Check by the "Code: message" of a failed delete whether it was refused; if not, it may still take effect."""
    return why.partition(":")[0] in _REFUSED


class _SignatureAt(S3SigV4QueryAuth):
    """A signature in a URL as of a given time; botocore's own are as of this machine's clock."""

    def __init__(self, client: Any, at: datetime, seconds: int) -> None:  # noqa: ANN401  botocore has no public access to a client's keys
        super().__init__(client._request_signer._credentials, "s3", client.meta.region_name, seconds)  # noqa: SLF001  the same
        self._stamp = at.strftime(SIGV4_TIMESTAMP)

    def _modify_request_before_signing(self, request: Any) -> None:  # noqa: ANN401  botocore has no types
        # guard bucket.signed_by_its_clock: a delete is accepted for minutes where this machine's clock is ahead
        request.context["timestamp"] = self._stamp
        super()._modify_request_before_signing(request)  # type: ignore[misc]  # its stubs leave the method out


def make_delete_url(client: "S3Client", bucket: str, key: str, at: datetime, seconds: int) -> str:
    """Return a URL whose DELETE the server refuses `seconds` after `at`, by its own clock. Sends nothing."""
    require_writable(client)
    request = AWSRequest("DELETE", f"{client.meta.endpoint_url.rstrip('/')}/{bucket}/{quote(key, safe='/-_.~')}")
    _SignatureAt(client, at, seconds).add_auth(request)
    return str(request.url)


def send_signed_delete(client: httpx.Client, key: str, url: str) -> str | None:
    """Send a signed DELETE once; return why the server refused it, or None if it succeeded.

    Raises StorageError if the outcome is unknown: no answer, or a server error.
    """
    try:
        answer = client.delete(url)
    except httpx.HTTPError as error:
        raise StorageError(f"DELETE {key}: {type(error).__name__}: {error}") from error
    answered = f"DELETE {key}: {answer.status_code} {answer.text[:200]}"
    if answer.is_client_error:
        return answered
    if not answer.is_success:
        raise StorageError(answered)
    return None


def open_sender(endpoint_url: str) -> httpx.Client:
    """Return a sender of signed deletes that never repeats a request."""
    return httpx.Client(timeout=SIGNED_TIMEOUT_SECONDS, trust_env=not is_loopback(endpoint_url))
