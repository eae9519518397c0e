"""Runway: tasks, each with its exact cost in credits; there is no list of them.

    POST   /v1/text_to_video, /v1/image_to_video     {"model", "promptText", "ratio", "duration", ...} -> {"id"}
    GET    /v1/tasks/ID                              its state; the URL of its video is new each time
    DELETE /v1/tasks/ID                              cancels it, or deletes one that is over, with its output
    POST   /v1/organization/usage                    {"startDate", "beforeDate"} -> credits by day and model

It sends no webhooks and accepts no key, so a lost answer stays in doubt.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from reelkeeper.adapters.providers.contract import Guarantee, Standing, Status, Submission
from reelkeeper.adapters.providers.inputs import seconds_of, with_parameters
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
from reelkeeper.model.money import NANO, VendorJob

_CREDIT_USD: Final = Decimal("0.01")  # docs.dev.runwayml.com/guides/pricing, November 2026
# Videos are at hosts "such as dnznrvs05pmza.cloudfront.net": docs.dev.runwayml.com/assets/outputs, November 2026. No
# list of them is documented, and a paid video at another one must not be refused: any name of that CDN is accepted.
_HOSTS: Final = ("cloudfront.net",)
_STATUSES: Final = {
    "PENDING": Status.QUEUED,
    "THROTTLED": Status.QUEUED,
    "RUNNING": Status.RUNNING,
    "SUCCEEDED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "CANCELLED": Status.CANCELLED,
}


class RunwayProvider(OverHttp):
    """api.dev.runwayml.com, or `url` instead."""

    name = "runway"
    takes_image_bytes = False
    guarantee = Guarantee()

    def __init__(self, key: str, *, url: str | None = None, hosts: tuple[str, ...] = (), **how: Any) -> None:  # noqa: ANN401  of Transport
        headers = {"Authorization": f"Bearer {key}", "X-Runway-Version": "2024-11-06"}
        self._calls = Transport(url or "https://api.dev.runwayml.com", headers, hosts=(*_HOSTS, *hosts), **how)

    def submit(self, submission: Submission) -> str:
        """Create a task. Runway refuses fields that the model does not have."""
        request = submission.order.request
        sent: dict[str, Any] = {
            "model": submission.order.model,
            "promptText": request["prompt"],
            "ratio": f"{request['width']}:{request['height']}",
            "duration": seconds_of(request),
        }
        if request.get("negative_prompt"):
            sent["negativePrompt"] = request["negative_prompt"]
        if request.get("seed") is not None:
            sent["seed"] = request["seed"]
        if request.get("audio") is not None:
            sent["audio"] = request["audio"]
        if submission.image_url:
            sent["promptImage"] = submission.image_url
        path = "/v1/image_to_video" if submission.image_url else "/v1/text_to_video"
        return job_name(self._calls.submit(path, with_parameters(sent, request)).fields.get("id"))

    def look(self, job_id: str) -> Standing | None:
        """Ask for the task."""
        answer = self._calls.get(f"/v1/tasks/{quote(job_id, safe='')}", "a task")
        return _standing(answer.fields) if answer else None

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """Return the credits of each day and model, net of refunds; single tasks are not listed."""
        period = {"startDate": f"{first:%Y-%m-%d}", "beforeDate": f"{end:%Y-%m-%d}"}
        answer = self._calls.ask("POST", "/v1/organization/usage", period)
        try:
            return [
                VendorJob(
                    None,
                    str(used["model"]),
                    datetime.fromisoformat(result["date"]).replace(tzinfo=UTC),
                    int(used["amount"] * _CREDIT_USD * NANO),
                )
                for result in answer.fields["results"]
                for used in result["usedCredits"]
            ]
        except (KeyError, TypeError, ValueError):
            raise GenerationUnknown(f"the provider answered {answer.status} when asked for the usage") from None

    def mark_of(self, key: str) -> str:
        """Return the key, which nothing there contains."""
        return key

    def cancel(self, job_id: str) -> None:
        """Delete the task; a running one may go on, and is charged."""
        self._calls.tell("DELETE", f"/v1/tasks/{quote(job_id, safe='')}")

    def erase(self, job_id: str) -> VendorErasure:
        """Delete the task and its output."""
        return erased(self._calls.ask("DELETE", f"/v1/tasks/{quote(job_id, safe='')}"))


def _standing(document: dict[str, Any]) -> Standing:
    job_id, status = job_name(document.get("id")), status_of(_STATUSES, document.get("status"))
    code = str(document.get("failureCode")).split(".")  # docs.dev.runwayml.com/errors/task-failures
    # guard provider.runway_safety: what INPUT_PREPROCESSING.SAFETY refuses is sent, and charged, up to five times
    if status is Status.FAILED and "SAFETY" in code:
        status = Status.MODERATED
    elif status is Status.FAILED and code[:2] == ["ASSET", "INVALID"]:
        status = Status.REFUSED
    output, cost = document.get("output"), document.get("cost")
    credits_used = cost.get("credits") if isinstance(cost, dict) else None
    return Standing(
        job_id,
        status,
        fraction(document.get("progress")),
        cost_microusd(credits_used * _CREDIT_USD) if isinstance(credits_used, int) else None,
        output[0] if isinstance(output, list) and output and isinstance(output[0], str) else None,
        words({"error": document.get("failure")}),
    )
