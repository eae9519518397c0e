"""A double of Replicate's predictions, as api.replicate.com answers them."""

import base64
import hmac
import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.vendor import TOKEN, Call, Job, Next, Request, Vendor

SIGNING_SECRET = "whsec_" + base64.b64encode(b"a secret of the double's").decode()

_WORDS = {"running": "processing", "succeeded": "succeeded", "expired": "succeeded", "cancelled": "canceled"}
_ERRORS = {
    "failed": "CUDA out of memory",
    "moderated": "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
}
_PAGE = 100


class ReplicateDouble(Vendor):
    """`tells_webhooks`: its list shows them, as is known of the prediction itself."""

    tells_webhooks = True
    predict_seconds = 12.5  # of each prediction

    def refusal(self, status: int, told: str) -> Next:
        return status, {"title": "Refused", "status": status, "detail": told}

    def route(self, request: Request) -> Next:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refusal(401, "You did not pass a valid authentication token")
        parts = request.path.removeprefix("/v1/").split("/")
        if request.method == "POST" and parts[-1] == "predictions":
            return self._begin(parts, request.json)
        if parts == ["predictions"]:
            return self._list(int(request.query.get("cursor", 0)))
        job = self.jobs.get(parts[1]) if parts[0] == "predictions" and len(parts) > 1 else None
        if job is None:
            return self.refusal(404, "The requested resource could not be found.")
        if parts[2:] == ["cancel"]:
            self.cancel(job)
            return 200, self._prediction(job)
        return 200, self._prediction(self.look(job))

    def call(self, job: Job, at: float | None = None) -> Call:
        body, now = json.dumps(self._prediction(job)).encode(), str(int(time.time() if at is None else at))
        key = base64.b64decode(SIGNING_SECRET.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.digest(key, f"m1.{now}.".encode() + body, "sha256")).decode()
        headers = {"webhook-id": "m1", "webhook-timestamp": now, "webhook-signature": f"v1,AAAA v1,{signature}"}
        return Call(urlsplit(job["webhook"]).query, headers, body)

    def _begin(self, parts: list[str], body: dict[str, Any]) -> Next:
        if "input" not in body or (parts == ["predictions"]) != ("version" in body):
            return self.refusal(422, "- input is required, and version where no model is named")
        webhook = body.get("webhook")
        key = parse_qs(urlsplit(webhook or "").query).get("key", ["none"])[0]
        return self.accept(
            key,
            lambda job: (201, self._prediction(job)),
            input=body["input"],
            webhook=webhook,
            model="/".join(parts[1:3]) if parts[0] == "models" else "",
            version=body.get("version", "hidden"),
        )

    def _list(self, start: int) -> Next:
        newest = [] if self.hides_jobs else list(reversed(self.jobs.values()))
        following = f"{self.url}/v1/predictions?cursor={start + _PAGE}" if len(newest) > start + _PAGE else None
        shown = [self._prediction(job) for job in newest[start : start + _PAGE]]
        if not self.tells_webhooks:
            shown = [{name: value for name, value in entry.items() if name != "webhook"} for entry in shown]
        return 200, {"previous": None, "next": following, "results": shown}

    def _prediction(self, job: Job) -> dict[str, Any]:
        status, place = job["status"], f"{self.url}/v1/predictions/{job['id']}"
        made = status == "succeeded" and not self.has_expired
        return {
            "id": job["id"],
            "model": job["model"],
            "version": job["version"],
            "status": _WORDS.get(status, "failed"),
            "input": {} if self.has_expired else job["input"],
            "output": [f"{self.files_url}{job['id']}.mp4"] if made else None,
            "error": _ERRORS.get(status),
            "logs": "",
            "metrics": {} if status == "running" else {"predict_time": self.predict_seconds},
            "data_removed": self.has_expired,
            "created_at": job["at"].isoformat().replace("+00:00", "Z"),
            "source": "api",
            "urls": {"get": place, "cancel": f"{place}/cancel"},
            "webhook": job["webhook"],
        }
