"""How much one caller of the HTTP API may ask: a token bucket, and the sizes of what is asked. Pure."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class AccessPolicy(BaseModel):
    """What each token may ask of the HTTP API."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_a_second: float = Field(50, gt=0, le=100_000, description="Requests of one token, a second, for long")
    burst: int = Field(200, ge=1, le=1_000_000, description="Requests of one token at once, after a pause")
    body_bytes: int = Field(262_144, ge=1_024, le=10_000_000, description="Largest body of a request")
    url_seconds: int = Field(3_600, ge=60, le=604_800, description="Life of a presigned URL; R2's limit is 7 days")


class Allowance(NamedTuple):
    """How many requests a caller still had at a moment, by a clock that only grows."""

    requests: float
    at_seconds: float


def take(before: Allowance | None, policy: AccessPolicy, at_seconds: float) -> tuple[Allowance, float]:
    """Take one request off; the second value is for how many seconds to wait, and 0 if the request may pass.

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
