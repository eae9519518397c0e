"""Limit how often callers may use the HTTP API, and how slowly they may send. Pure."""

from math import ceil
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

BODY_BYTES: Final = 262_144  # of a request's JSON: more than the longest prompt, or a batch of views, takes
WAIT_SECONDS: Final = 2.0  # for a thread at the store, before 503: a caller does better to come again
HEAD_SECONDS: Final = 10.0  # for a request's headers, from the connection or the last response; nginx's default is 60
SEND_SECONDS: Final = 30.0  # in which a client reads nothing of its response, until the connection is closed
_BODY_SECONDS: Final = 20.0  # for a request's body, before 408; Apache's default is also 20
_BODY_BYTES_A_SECOND: Final = 100_000  # received, by which that time grows by a second


class AccessPolicy(BaseModel):
    """Limits of the HTTP API, for each token and for one process as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_a_second: float = Field(
        50, gt=0, le=100_000, description="Sustained request rate per token, in requests per second"
    )
    burst: int = Field(
        200, ge=1, le=1_000_000, description="Burst size per token: requests allowed at once after a pause"
    )
    url_seconds: int = Field(
        3_600, ge=60, le=604_800, description="Validity of a presigned URL, in seconds; the limit of R2 is 7 days"
    )

    requests_of_token: int = Field(
        250, ge=1, le=100_000, description="Concurrent requests per token, without event streams; more get 429"
    )
    requests_at_once: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Concurrent requests in total, without event streams; more get 503. Limits memory: each may hold a "
        "body",
    )
    streams_of_token: int = Field(200, ge=1, le=100_000, description="Concurrent event streams per token; more get 429")
    streams_at_once: int = Field(
        1_000,
        ge=1,
        le=20_000,
        description="Concurrent event streams in total; more get 503. 600 were measured in one process",
    )
    uploads_of_token: int = Field(
        8, ge=1, le=1_000, description="Concurrent image uploads and upload verifications per token; more get 429"
    )
    uploads_at_once: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Concurrent image uploads and upload verifications in total; more get 503. An image takes up to 10 "
        "MB of the scratch folder",
    )

    connections: int = Field(
        4_000,
        ge=10,
        le=100_000,
        description="Maximum open connections; above it, the connection that has been idle longest is closed. Each "
        "needs a file descriptor",
    )


class Allowance(NamedTuple):
    """The requests that a caller had left at a time of a monotonic clock."""

    requests: float
    at_seconds: float


def body_deadline(taken_bytes: int) -> float:
    """Return the seconds, from its first byte, within which a body must be complete.

    >>> body_deadline(1_000_000)
    30.0
    """
    return _BODY_SECONDS + taken_bytes / _BODY_BYTES_A_SECOND


def take(before: Allowance | None, policy: AccessPolicy, at_seconds: float) -> tuple[Allowance, float]:
    """Count one request; the second value is the number of seconds to wait, 0 if the request is allowed.

    >>> policy = AccessPolicy(requests_a_second=2, burst=1)
    >>> left, wait = take(None, policy, 100.0)
    >>> wait
    0.0
    >>> left, wait = take(left, policy, 100.1)
    >>> round(wait, 3)
    0.4
    """
    had = policy.burst if before is None else _refilled(before, policy, at_seconds)
    if had >= 1:
        return Allowance(had - 1, at_seconds), 0.0
    return Allowance(had, at_seconds), (1 - had) / policy.requests_a_second


def next_seconds(left: Allowance, policy: AccessPolicy) -> int:
    """Return the seconds after which a caller may make one request more than `left` now, rounded up to whole ones.

    >>> next_seconds(Allowance(0.5, 100.0), AccessPolicy(requests_a_second=0.1))
    6
    """
    return int((1 - left.requests % 1) / policy.requests_a_second) + 1


def window(policy: AccessPolicy) -> tuple[int, int]:
    """Return a number of requests, the burst or more, and the whole seconds in which a caller may make them for ever.

    >>> window(AccessPolicy(requests_a_second=50, burst=200)), window(AccessPolicy(requests_a_second=50, burst=1))
    ((200, 4), (50, 1))
    """
    seconds = ceil(policy.burst / policy.requests_a_second)
    return max(policy.burst, int(policy.requests_a_second * seconds)), seconds


def _refilled(before: Allowance, policy: AccessPolicy, at_seconds: float) -> float:
    passed = max(0.0, at_seconds - before.at_seconds)
    return min(float(policy.burst), before.requests + passed * policy.requests_a_second)
