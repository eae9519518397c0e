"""Limit how often callers may use the HTTP API, and how slowly they may send. Pure."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class AccessPolicy(BaseModel):
    """Limits of the HTTP API, for each token and for one process as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_a_second: float = Field(
        50, gt=0, le=100_000, description="Sustained request rate per token, in requests per second"
    )
    burst: int = Field(
        200, ge=1, le=1_000_000, description="Burst size per token: requests allowed at once after a pause"
    )
    body_bytes: int = Field(262_144, ge=1_024, le=10_000_000, description="Maximum size of a request body, in bytes")
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
    wait_seconds: float = Field(2.0, gt=0, le=60, description="Maximum wait for a store thread, in seconds; then 503")

    connections: int = Field(
        4_000,
        ge=10,
        le=100_000,
        description="Maximum open connections; above it, the connection that has been idle longest is closed. Each "
        "needs a file descriptor",
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Time limit for a request's headers, in seconds, from the connection or the last response; nginx's "
        "default is 60",
    )
    body_seconds: float = Field(
        20.0,
        gt=0,
        le=3_600,
        description="Time limit for a request's body, in seconds; then 408; Apache's default is also 20",
    )
    body_bytes_a_second: int = Field(
        100_000,
        ge=1,
        le=10**9,
        description="Minimum upload rate, in bytes per second: each such number of bytes received extends the time "
        "limit by one second",
    )
    send_seconds: float = Field(
        30.0,
        gt=0,
        le=3_600,
        description="Maximum time in which a client reads nothing of its response, in seconds; then the connection is "
        "closed",
    )


class Allowance(NamedTuple):
    """The requests that a caller had left at a time of a monotonic clock."""

    requests: float
    at_seconds: float


def body_deadline(policy: AccessPolicy, taken_bytes: int) -> float:
    """Return the seconds, from its first byte, within which a body must be complete.

    >>> body_deadline(AccessPolicy(body_seconds=20, body_bytes_a_second=100_000), 1_000_000)
    30.0
    """
    return policy.body_seconds + taken_bytes / policy.body_bytes_a_second


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


def _refilled(before: Allowance, policy: AccessPolicy, at_seconds: float) -> float:
    passed = max(0.0, at_seconds - before.at_seconds)
    return min(float(policy.burst), before.requests + passed * policy.requests_a_second)
