"""Check the form of problem responses."""

from httpx import Response


def problem(answer: Response, status: int) -> dict[str, object]:
    """Check that the answer is a problem of this status, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, object] = answer.json()
    assert told["status"] == status
    return told
