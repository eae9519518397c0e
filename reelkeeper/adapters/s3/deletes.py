"""Deletes: a batch read key by key, since its answer is 200 even where some of its keys still stand; and a signed one.

R2 has no conditional delete, so the last look at what is deleted comes after the request is signed: a process that
sleeps between its look and its request wakes up with a signature that the server refuses.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from reelkeeper.adapters.s3.transport import ATTEMPTS, LOCKED, cause, wait_before
from reelkeeper.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteTypeDef

BATCH_KEYS = 1000  # R2 takes no more in one DeleteObjects (error 10027)
PASSING_ERRORS = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "TooManyRequests"})
# What a server says that has deleted nothing, and will not later (R2: "Error codes"; Amazon S3: "Error responses").
REFUSALS = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "NoSuchBucket",
        LOCKED,
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "Unauthorized",
    }
)
SIGNED_TIMEOUT_SECONDS = 20
LastLook = Callable[[], None]  # raises where the request must not be sent
_THIS_THREADS = threading.local()


def look_before_sending(client: "S3Client") -> None:
    """Have `client` take the last look of a request after signing it, before each time that it is sent."""
    # guard bucket.last_look: nothing is asked between signing a delete and sending it
    client.meta.events.register("before-send.s3.DeleteObjects", _look)
    # guard bucket.put_last_look: the same, of a put over what the service has stored
    client.meta.events.register("before-send.s3.PutObject", _look)


def _look(**_: object) -> None:
    look: LastLook | None = getattr(_THIS_THREADS, "look", None)
    if look is not None:
        look()


@contextmanager
def looking(last_look: LastLook | None) -> Iterator[None]:
    """Have this thread's requests take `last_look` meanwhile, which raises where one must not be sent."""
    _THIS_THREADS.look = last_look
    try:
        yield
    finally:
        _THIS_THREADS.look = None


def delete_batch(
    client: "S3Client", bucket: str, keys: list[str], *, last_look: LastLook | None = None
) -> dict[str, str]:
    """Delete at most BATCH_KEYS keys, those with passing errors again; return `key -> "Code: message"` of the failed.

    Checks nothing: `Bucket.delete` has. Raises what `last_look` raises.
    """
    with looking(last_look):
        return _delete_batch(client, bucket, keys)


def _delete_batch(client: "S3Client", bucket: str, keys: list[str]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for attempt in range(1, ATTEMPTS + 1):
        request: DeleteTypeDef = {"Objects": [{"Key": key} for key in keys]}  # not Quiet: silence is no success
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
                # guard bucket.not_reported: a delete that the bucket says nothing about counts as done
                failed[key] = "NotReported: the bucket said neither that it deleted the key nor why not"
        if not again or attempt == ATTEMPTS:
            break
        keys = again
        wait_before(attempt + 1)
    return failed


def _after(why: str, attempt: int, metadata: Mapping[str, Any]) -> str:
    """Mark the refusal of a request that was sent before, too: the first one, whose answer is lost, may be done yet."""
    # guard bucket.sent_before: a delete that may be done yet counts as refused, since its second try was
    return why if attempt == 1 and not metadata.get("RetryAttempts") else f"Sent again, then {why}"


def was_refused(why: str) -> bool:
    """Tell from the "Code: message" of a failed delete whether the server has said no: else it may be done yet."""
    return why.partition(":")[0] in REFUSALS


def send_signed_delete(client: httpx.Client, key: str, url: str) -> str | None:
    """Send a DELETE that was signed before, once; return why the server refused it, or None where it is done.

    StorageError where nobody knows: no answer, or one of an error in the server.
    """
    try:
        answer = client.delete(url)
    except httpx.HTTPError as error:
        raise StorageError(f"DELETE {key}: {type(error).__name__}: {error}") from error
    said = f"DELETE {key}: {answer.status_code} {answer.text[:200]}"
    if answer.is_client_error:
        return said
    if not answer.is_success:
        raise StorageError(said)
    return None


def open_sender(endpoint_url: str) -> httpx.Client:
    """Return what sends signed deletes. It never sends a request again."""
    loopback = httpx.URL(endpoint_url).host in {"127.0.0.1", "localhost", "::1"}
    return httpx.Client(timeout=SIGNED_TIMEOUT_SECONDS, trust_env=not loopback)
