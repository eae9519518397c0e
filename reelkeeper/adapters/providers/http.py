"""Our own format for a provider of videos, one call for each step.

    POST   /jobs            Idempotency-Key: KEY    {"key", "model", "request", "webhook_url"?, "image_url"?} -> {"id"}
    GET    /jobs?key=KEY                            {"jobs": [{"id", "key"?, ...}]}: empty if it was never received
    GET    /jobs/ID                                 {"id", "status", "progress"?, "cost_usd"?, "video_url"?, "error"?}
    DELETE /jobs/ID                                 the job is no longer wanted: of one that is over, no copy may stay

`status` is a word of `Status`.
"""

from typing import Any
from urllib.parse import quote

from reelkeeper.adapters.providers.contract import Guarantee, Order, Standing, Status, Submission, Way
from reelkeeper.adapters.providers.transport import (
    OverHttp,
    Transport,
    cost_microusd,
    erased,
    fraction,
    job_name,
    status_of,
    words,
)
from reelkeeper.errors import GenerationUnknown
from reelkeeper.model.jobs import VendorErasure


class HttpProvider(OverHttp):
    """A server that offers the calls above."""

    name = "http"
    guarantee = Guarantee((Way.KEY,), absence_is_proof=True, bills=False)
    takes_image_bytes = False

    def __init__(self, url: str, token: str | None = None, *, webhook_url: str | None = None, **how: Any) -> None:  # noqa: ANN401  of Transport
        self._calls = Transport(url, {"Authorization": f"Bearer {token}"} if token else {}, **how)
        self._webhook_url = webhook_url

    def submit(self, submission: Submission) -> str:
        """Send a job with its key, by which the provider recognises a repetition."""
        key, order = submission.key, submission.order
        body = {"key": key, "model": order.model, "request": dict(order.request)}
        if self._webhook_url:
            body["webhook_url"] = self._webhook_url
        if submission.image_url:
            body["image_url"] = submission.image_url
        return job_name(self._calls.submit("/jobs", body, {"Idempotency-Key": key}).fields.get("id"))

    def find(self, order: Order) -> Standing | None:
        """Look up the job of a key."""
        key = str(order.provider_key)
        answer = self._calls.get(f"/jobs?key={quote(key, safe='')}", "jobs by their key")
        found = answer.fields.get("jobs") if answer else None
        if not isinstance(found, list):
            raise GenerationUnknown("the provider's answer lists no jobs")
        default = key if len(found) == 1 else None
        # guard provider.http_mark: a server that ignores the key gives a job in doubt another job's video
        if any(isinstance(job, dict) and job.get("key", default) != key for job in found):
            raise GenerationUnknown("the provider's answer lists jobs of other keys, or several without a key")
        return _standing(found[0]) if found else None

    def look(self, job_id: str) -> Standing | None:
        """Ask for the job."""
        answer = self._calls.get(f"/jobs/{quote(job_id, safe='')}", "a job")
        return _standing(answer.body) if answer else None

    def cancel(self, job_id: str) -> None:
        """Delete the job."""
        self._calls.tell("DELETE", f"/jobs/{quote(job_id, safe='')}")

    def erase(self, job_id: str) -> VendorErasure:
        """Delete the job's request and video."""
        return erased(self._calls.ask("DELETE", f"/jobs/{quote(job_id, safe='')}"))


def _standing(answer: object) -> Standing:
    """Read a job's state; anything malformed raises GenerationUnknown, and is never taken for a failure."""
    document = answer if isinstance(answer, dict) else {}
    job_id, url = job_name(document.get("id")), document.get("video_url")
    return Standing(
        job_id,
        status_of({str(status): status for status in Status}, document.get("status", "queued")),
        fraction(document.get("progress")),
        cost_microusd(document.get("cost_usd")),
        url if isinstance(url, str) else None,
        words(document.get("error")),
    )
