"""Replicate: predictions, found again by the webhook URL in each, which contains our key.

    POST /v1/models/OWNER/NAME/predictions     {"input", "webhook"?} -> {"id", "status", ...}
    POST /v1/predictions                       the same, with "version"
    POST /v1/deployments/OWNER/NAME/predictions
    GET  /v1/predictions                       a page, newest first, and the URL of the next
    GET  /v1/predictions/ID, POST /v1/predictions/ID/cancel

Its outputs are deleted one hour after the prediction ends.
"""

import math
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from reelkeeper.adapters.providers.contract import Guarantee, Order, Standing, Status, Submission, Way
from reelkeeper.adapters.providers.inputs import (
    aspect_ratio,
    key_of,
    marked_url,
    options_of,
    parts_of,
    seconds_of,
    with_parameters,
)
from reelkeeper.adapters.providers.transport import (
    CLOCKS_DIFFER,
    OverHttp,
    Transport,
    decimal,
    is_about_content,
    job_name,
    status_of,
    words,
)
from reelkeeper.errors import GenerationLost, GenerationRefused, GenerationUnknown
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.model.money import VendorJob

_MODEL: Final = re.compile(r"(deployments/)?([\w-][\w.-]*)/([\w-][\w.-]*)")
_VERSION: Final = re.compile(r"(?:[\w-][\w.-]*/[\w-][\w.-]*:)?([0-9a-f]{64})")
_PAGES: Final = 100  # of a hundred predictions each, at most: an hour of ten thousand
_LONGEST_MINUTES: Final = 1_440  # of Cancel-After: a longer one may be refused, and then we cancel at our deadline
_STATUSES: Final = {
    "starting": Status.QUEUED,
    "processing": Status.RUNNING,
    "succeeded": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "canceled": Status.CANCELLED,
    "aborted": Status.FAILED,  # its deadline passed before its start
}


class ReplicateProvider(OverHttp):
    """api.replicate.com, or `url` instead."""

    name = "replicate"
    takes_image_bytes = False

    def __init__(
        self,
        token: str,
        *,
        url: str | None = None,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        hosts: tuple[str, ...] = (),
        **how: Any,  # noqa: ANN401  of Transport
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._calls = Transport(
            url or "https://api.replicate.com", headers, hosts=("replicate.delivery", *hosts), **how
        )
        self._webhook_url, self._webhook_secret = webhook_url, webhook_secret
        self.guarantee = Guarantee((Way.LISTING,) if webhook_url else ())

    def submit(self, submission: Submission) -> str:
        """Create a prediction of a model, a deployment or a version, depending on the model's name."""
        order, request = submission.order, submission.order.request
        sent: dict[str, Any] = {
            "prompt": request["prompt"],
            "duration": seconds_of(request),
            "aspect_ratio": aspect_ratio(request),
            "resolution": f"{min(request['width'], request['height'])}p",
        }
        sent |= options_of(request)
        if submission.image_url:
            sent["image"] = submission.image_url
        body: dict[str, Any] = {"input": with_parameters(sent, request)}
        if self._webhook_url:
            address = marked_url(self._webhook_url, submission.key, self._webhook_secret)
            body |= {"webhook": address, "webhook_events_filter": ["completed"]}
        if version := _VERSION.fullmatch(order.model):
            path, body["version"] = "/v1/predictions", version[1]
        elif model := _MODEL.fullmatch(order.model):
            path = f"/v1/{'deployments' if model[1] else 'models'}/{model[2]}/{model[3]}/predictions"
        else:
            raise GenerationRefused(
                f"{order.model!r} is not a model of Replicate: OWNER/NAME, optionally with a version"
            )
        # guard provider.replicate_deadline: a prediction that we have given up goes on at Replicate, and is charged
        minutes = None if (left := order.seconds_left) is None else math.ceil(left / 60)
        ends = {"Cancel-After": f"{minutes}m"} if minutes and minutes <= _LONGEST_MINUTES else {}
        return job_name(self._calls.submit(path, body, ends).fields.get("id"))

    def find(self, order: Order) -> Standing | None:
        """Search the list back to the job's start. A missing prediction may still appear: the list's lag is unknown."""
        for prediction in self._predictions(order.started_at):
            # guard provider.replicate_mark: a job in doubt adopts another job's prediction, and its video
            if key_of(prediction.get("webhook")) == order.provider_key:
                return _standing(prediction)
        return None

    def look(self, job_id: str) -> Standing | None:
        """Read the prediction."""
        answer = self._calls.get(f"/v1/predictions/{quote(job_id, safe='')}", "a prediction")
        return _standing(answer.body) if answer else None

    def unit_usd(self, order: Order) -> Decimal | None:
        """Return the book's price of a second; a deployment's instances are billed by the time that they are on."""
        # guard provider.replicate_time: a prediction that is billed by its video counts at the seconds that it ran
        return None if order.model.startswith("deployments/") else order.gpu_second_usd

    def cancel(self, job_id: str) -> None:
        """Cancel the prediction; the time that it ran may be charged."""
        self._calls.tell("POST", f"/v1/predictions/{quote(job_id, safe='')}/cancel")

    def erase(self, job_id: str) -> VendorErasure:
        """Look whether it has removed input and output, as it does by itself an hour after the end: it has no call."""
        answer = self._calls.get(f"/v1/predictions/{quote(job_id, safe='')}", "a prediction")
        if answer is None:
            return VendorErasure.ABSENT
        # guard provider.replicate_removed: what Replicate still has is certified as deleted
        if answer.fields.get("data_removed") is not True:
            raise GenerationUnknown("the provider has not removed the prediction's data yet")
        return VendorErasure.DELETED

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """List the predictions, without their cost."""
        found = []
        for prediction in self._predictions(first):
            try:
                at = datetime.fromisoformat(str(prediction.get("created_at")))
            except ValueError:
                raise GenerationUnknown("the provider's answer has no creation time of a prediction") from None
            if first <= at < end:
                model = str(prediction.get("model") or prediction.get("version"))
                mark = key_of(prediction.get("webhook"))
                found.append(VendorJob(job_name(prediction.get("id")), model, at, mark=mark))
        return found

    def mark_of(self, key: str) -> str:
        """Return the key, as in the webhook's URL."""
        return key

    def _predictions(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        """Read the list, newest first, page by page until one reaches back to `since`."""
        path = "/v1/predictions"
        for _ in range(_PAGES):
            page = self._calls.get(path, "its predictions")
            listed = page.fields.get("results") if page else None
            if page is None or not isinstance(listed, list):
                raise GenerationUnknown("the provider's answer lists no predictions")
            predictions = [entry for entry in listed if isinstance(entry, dict)]
            yield from predictions
            following = page.fields.get("next")
            if not isinstance(following, str) or (since and any(_is_before(entry, since) for entry in predictions)):
                return
            parts = parts_of(following)  # always our host, whatever the answer says
            path = f"{parts.path}?{parts.query}"
        raise GenerationUnknown(f"the provider has more than {_PAGES} pages since then")


def _standing(body: object) -> Standing:
    document = body if isinstance(body, dict) else {}
    job_id, status = job_name(document.get("id")), status_of(_STATUSES, document.get("status"))
    if status is Status.FAILED and is_about_content({"error": document.get("error")}):
        status = Status.MODERATED
    output, metrics = document.get("output"), document.get("metrics")
    if status is Status.SUCCEEDED and document.get("data_removed") and not output:
        raise GenerationLost("the provider made the video, and has deleted it since")
    url = output[0] if isinstance(output, list) and output else output
    return Standing(
        job_id,
        status,
        video_url=url if isinstance(url, str) else None,
        error=words({"error": document.get("error")}),
        units=decimal(metrics.get("predict_time")) if isinstance(metrics, dict) else None,
    )


def _is_before(prediction: dict[str, Any], since: datetime) -> bool:
    try:
        created = datetime.fromisoformat(str(prediction.get("created_at")))
        return created < since - CLOCKS_DIFFER
    except (ValueError, TypeError):
        return False
