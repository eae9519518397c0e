"""OpenAI's /v1/videos format, which gateways and engines serve; OpenAI ended its own service in September 2026.

    POST   /videos             a form: prompt, model, seconds, size, input_reference? -> {"id", "status", ...}
    GET    /videos/ID          its state; for a failed job, engines use the failure's HTTP status
    GET    /videos/ID/content  its bytes
    DELETE /videos/ID          -> {"deleted": true}; SGLang's: the job, with the status deleted

Its list does not distinguish our job from another with the same prompt, so a lost answer stays in doubt.
"""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx

from reelkeeper.adapters.providers.contract import Guarantee, Standing, Status, Submission
from reelkeeper.adapters.providers.inputs import options_of, seconds_of, with_parameters
from reelkeeper.adapters.providers.transport import (
    GONE,
    OverHttp,
    Transport,
    erased,
    fraction,
    is_about_content,
    job_name,
    status_of,
    words,
)
from reelkeeper.errors import GenerationUnknown
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.model.money import VendorJob

_PERCENT: Final = 100
_PAGES: Final = 100
_STATUSES: Final = {
    "queued": Status.QUEUED,
    "pending": Status.QUEUED,  # a word of OpenRouter's
    "in_progress": Status.RUNNING,
    "processing": Status.RUNNING,  # a word of LiteLLM's
    "completed": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "cancelled": Status.CANCELLED,
    "expired": Status.FAILED,  # a word of OpenRouter's: it was not made in time
    "deleted": Status.CANCELLED,  # a word of SGLang's
}


class VideosProvider(OverHttp):
    """A provider whose jobs are read in this format; how they are sent is its own."""

    guarantee = Guarantee()

    def look(self, job_id: str) -> Standing | None:
        """Read the job. An answer that describes this job has its state, whatever the HTTP status."""
        answer = self._calls.ask("GET", f"/videos/{quote(job_id, safe='')}")
        if answer.fields.get("id") == job_id:
            return self._standing(answer.fields)
        if answer.status in GONE:
            return None
        raise GenerationUnknown(f"the provider answered {answer.status} when asked for a job")

    def _standing(self, document: dict[str, Any]) -> Standing:
        job_id, status = job_name(document.get("id")), status_of(_STATUSES, document.get("status"))
        if status is Status.FAILED and is_about_content(document.get("error")):
            status = Status.MODERATED
        return Standing(
            job_id,
            status,
            fraction(document.get("progress"), _PERCENT),
            video_url=f"{self._calls.url}/videos/{quote(job_id, safe='')}/content",
            error=words(document.get("error")),
        )


class OpenAIProvider(VideosProvider):
    """A server of this format; `url` ends with /v1."""

    name = "openai"
    takes_image_bytes = True

    def __init__(self, url: str, key: str | None = None, *, hosts: tuple[str, ...] = (), **how: Any) -> None:  # noqa: ANN401  of Transport
        self._calls = Transport(url, {"Authorization": f"Bearer {key}"} if key else {}, hosts=hosts, **how)

    def submit(self, submission: Submission) -> str:
        """Send a form, as the vendor's own client does and every server accepts."""
        request = submission.order.request
        sent: dict[str, Any] = {
            "prompt": request["prompt"],
            "model": submission.order.model,
            "seconds": seconds_of(request),
            "size": f"{request['width']}x{request['height']}",
        }
        sent |= options_of(request)
        form: list[tuple[str, Any]] = [
            (name, (None, str(value))) for name, value in with_parameters(sent, request).items()
        ]
        if submission.image:
            kind = "png" if submission.image.startswith(b"\x89PNG") else "jpeg"
            form.append(("input_reference", (f"image.{kind}", submission.image, f"image/{kind}")))
        encoded = httpx.Request("POST", "http://form/", files=form)
        headers = {"Content-Type": encoded.headers["Content-Type"]}
        return job_name(self._calls.submit("/videos", encoded.read(), headers).fields.get("id"))

    def cancel(self, job_id: str) -> None:
        """Delete the job. Some servers only forget it, and a gateway has no such call."""
        self._calls.tell("DELETE", f"/videos/{quote(job_id, safe='')}")

    def erase(self, job_id: str) -> VendorErasure:
        """Delete the job; LiteLLM's proxy has no such call."""
        answer = self._calls.ask("DELETE", f"/videos/{quote(job_id, safe='')}")
        says_so = answer.fields.get("deleted") is True or answer.fields.get("status") == "deleted"
        return erased(answer, says_so=says_so)

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """List the jobs of an engine, without their cost; LiteLLM's proxy has no such list."""
        found: list[VendorJob] = []
        query = {"limit": "100", "order": "desc"}
        for _ in range(_PAGES):
            page = self._calls.get(f"/videos?{urlencode(query)}", "its list of videos")
            listed = page.fields.get("data") if page else None
            if page is None or not isinstance(listed, list):
                raise GenerationUnknown("the provider's answer lists no videos")
            jobs = [_listed(entry) for entry in listed]
            found += [job for job in jobs if first <= job.at < end]
            if not page.fields.get("has_more") or not jobs or jobs[-1].at < first:
                return found
            query = query | {"after": str(jobs[-1].id)}
        raise GenerationUnknown(f"the provider has more than {_PAGES} pages since then")

    def mark_of(self, key: str) -> str:
        """Return the key, which nothing in the list contains."""
        return key


def _listed(entry: object) -> VendorJob:
    document = entry if isinstance(entry, dict) else {}
    created = document.get("created_at")
    try:
        at = datetime.fromtimestamp(created, UTC)  # type: ignore[arg-type]  # what is no number is a TypeError
    # guard provider.absurd_time: one odd time in a vendor's list ends the whole comparison of its bill
    except (TypeError, ValueError, OverflowError, OSError) as error:  # the last three: one that no calendar has
        raise GenerationUnknown("the provider's answer has no creation time of a video") from error
    return VendorJob(job_name(document.get("id")), str(document.get("model")), at)
