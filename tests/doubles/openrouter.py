"""A double of OpenRouter's video jobs, as openrouter.ai answers them."""

import hmac
import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.replicate import SIGNING_SECRET
from tests.doubles.vendor import TOKEN, Call, Job, Next, Request, Vendor

_WORDS = {"running": "in_progress", "succeeded": "completed", "expired": "completed"}
_ERRORS = {
    "failed": "The provider returned an error",
    "moderated": "The request was blocked by the provider's content policy moderation",
}


class OpenRouterDouble(Vendor):
    """`is_byok`: jobs are made with a key of ours at another vendor, and `cost_usd` is OpenRouter's fee."""

    cost_usd: float = 0.6  # of a job that is completed
    is_byok = False

    def __init__(self, video: bytes = b"a video") -> None:
        super().__init__(video)
        self.url = f"{self.url}/api/v1"
        self.models: list[dict[str, Any]] = []

    def refusal(self, status: int, told: str) -> Next:
        return status, {"error": {"code": status, "message": told}}

    def route(self, request: Request) -> Next:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refusal(401, "No auth credentials found")
        parts = request.path.removeprefix("/api/v1/videos").strip("/").split("/")
        if request.method == "POST" and parts == [""]:
            return self._begin(request.json)
        if request.method == "GET" and parts == ["models"]:
            return 200, {"data": self.models}
        job = self.jobs.get(parts[0])
        if job is None or request.method != "GET":
            return self.refusal(404, "Not found")
        if parts[1:] == ["content"]:
            is_there = job["status"] == "succeeded" and not self.has_expired
            return (200, self.video, {"Content-Type": "video/mp4"}) if is_there else self.refusal(404, "Not found")
        return 200, self._shown(self.look(job))

    def call(self, job: Job, at: float | None = None) -> Call:
        shown, now = self._shown(job), str(int(time.time() if at is None else at))
        body = json.dumps({"type": f"video.generation.{shown['status']}", "data": shown}).encode()
        signature = hmac.digest(SIGNING_SECRET.encode(), f"{now},".encode() + body, "sha256").hex()
        headers = {"X-OpenRouter-Signature": f"t={now},v1={signature}", "X-OpenRouter-Idempotency-Key": job["id"]}
        return Call(urlsplit(job["input"]["callback_url"]).query, headers, body)

    def _begin(self, body: dict[str, Any]) -> Next:
        if not body.get("model") or not body.get("prompt"):
            return self.refusal(400, "model and prompt are required")
        key = parse_qs(urlsplit(body.get("callback_url") or "").query).get("key", [body["prompt"]])[0]
        return self.accept(key, lambda job: (202, self._shown(job)), input=body)

    def _shown(self, job: Job) -> dict[str, Any]:
        status, place = job["status"], f"/api/v1/videos/{job['id']}"
        word = "pending" if status == "running" and job["looks"] < 2 else _WORDS.get(status, "failed")
        shown = {"id": job["id"], "polling_url": place, "status": word}
        if word == "completed":
            usage = {"cost": self.cost_usd, "is_byok": self.is_byok}
            shown |= {"usage": usage, "unsigned_urls": [f"{self.url}/videos/{job['id']}/content?index=0"]}
        return shown | ({"error": _ERRORS[status]} if status in _ERRORS else {})
