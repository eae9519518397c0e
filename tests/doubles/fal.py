"""A double of fal's queue and of its list of requests, as queue.fal.run and api.fal.ai answer them."""

import base64
import hashlib
import json
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.doubles.vendor import TOKEN, Call, Job, Next, Request, Vendor

_REFUSAL = {
    "loc": ["body", "prompt"],
    "msg": "The content could not be processed because it contained material flagged by a content checker.",
    "type": "content_policy_violation",
    "url": "https://docs.fal.ai/errors/#content_policy_violation",
}
# As docs.fal.ai/documentation/model-apis/request-errors has them, read on 2026-11-29.
_FAULTS = {
    "failed": (503, {"detail": "Runner disconnected", "error_type": "runner_disconnected"}),
    "cancelled": (499, {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}),
}


class FalDouble(Vendor):
    """Its webhooks are signed with its own key, which it serves as fal does."""

    def __init__(self, video: bytes = b"a video") -> None:
        super().__init__(video)
        self.signs_with = Ed25519PrivateKey.generate()
        self.second_nanousd = 100_000_000  # of a request's video
        self.prices: dict[str, dict[str, Any]] = {}  # of models that differ; without a unit, it publishes none
        self.billed_as = {"succeeded", "expired"}  # how requests ended that it charges for

    def refusal(self, status: int, told: str) -> Next:
        return status, {"detail": told}

    def route(self, request: Request) -> Next:  # noqa: PLR0911  a table
        if request.path == "/.well-known/jwks.json":
            others = {"kty": "OKP", "crv": "Ed25519", "x": _shown(Ed25519PrivateKey.generate())}
            return 200, {"keys": [others, {"kty": "OKP", "crv": "Ed25519", "x": _shown(self.signs_with)}]}
        if request.headers.get("Authorization") != f"Key {TOKEN}":
            return self.refusal(401, "Cannot access application. Authentication is required.")
        if request.path == "/v1/models/requests/by-endpoint":
            return self._list(request.query)
        if request.path == "/v1/models/pricing":
            model = request.query["endpoint_id"]
            price = {"unit_price": self.second_nanousd / 10**9, "unit": "second", "currency": "USD"}
            price |= self.prices.get(model, {})
            return 200, {"prices": [{"endpoint_id": model, **price}] if price["unit"] else []}
        if request.path == "/v1/models/billing-events":
            return self._billed(request.query)
        if request.method == "DELETE":
            return self._delete(request.path)
        path, _, told = request.path.strip("/").partition("/requests/")
        if request.method == "POST" and not told:
            return self._begin(path, request)
        request_id, _, word = told.partition("/")
        job = self.jobs.get(request_id)
        if job is None or job["app"] != path:
            return self.refusal(404, "Request not found")
        return self._asked(job, request.method, word)

    def call(self, job: Job, at: float | None = None) -> Call:
        said = {"request_id": job["id"], "gateway_request_id": job["id"], "status": "OK", "payload": {}}
        body, now = json.dumps(said).encode(), str(int(time.time() if at is None else at))
        signed = "\n".join([job["id"], "a-user", now, hashlib.sha256(body).hexdigest()]).encode()
        names = {"Request-Id": job["id"], "User-Id": "a-user", "Timestamp": now}
        names["Signature"] = self.signs_with.sign(signed).hex()
        headers = {f"X-Fal-Webhook-{name}": value for name, value in names.items()}
        return Call(urlsplit(job["webhook"]).query, headers, body)

    def _begin(self, path: str, request: Request) -> Next:
        webhook = request.query.get("fal_webhook")
        key = parse_qs(urlsplit(webhook or "").query).get("key", ["none"])[0]
        parts = path.split("/")
        app = "/".join(parts[: 3 if parts[0] in ("workflows", "comfy") else 2])
        return self.accept(key, self._queued, input=request.json, webhook=webhook, endpoint=path, app=app)

    def _queued(self, job: Job) -> tuple[int, Any]:
        place = f"{self.url}/{job['app']}/requests/{job['id']}"
        return 200, {
            "status": "IN_QUEUE",
            "queue_position": 0,
            "request_id": job["id"],
            "gateway_request_id": job["id"],
            "response_url": place,
            "status_url": f"{place}/status",
            "cancel_url": f"{place}/cancel",
        }

    def _asked(self, job: Job, method: str, word: str) -> Next:
        if method == "PUT" and word == "cancel":
            is_over = job["status"] != "running"
            self.cancel(job)
            return (400, {"status": "ALREADY_COMPLETED"}) if is_over else (202, {"status": "CANCELLATION_REQUESTED"})
        if word == "status":
            return self._status(self.look(job))
        return self._result(job)

    def _status(self, job: Job) -> Next:
        common = {"request_id": job["id"], "response_url": f"{self.url}/{job['app']}/requests/{job['id']}"}
        if job["status"] == "running":
            waits = {"status": "IN_QUEUE", "queue_position": 0} if job["looks"] == 1 else {"status": "IN_PROGRESS"}
            return 202, common | waits | {"logs": None}
        fault = _FAULTS.get(job["status"], (0, {}))[1]
        failed = {"error": fault["detail"], "error_type": fault["error_type"]} if fault else {}
        return 200, common | failed | {"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 12.5}}

    def _result(self, job: Job) -> Next:
        match job["status"]:
            case "succeeded" | "expired":
                video = {
                    "url": f"{self.files_url}{job['id']}.mp4",
                    "content_type": "video/mp4",
                    "file_size": len(self.video),
                }
                return 200, {"video": video, "seed": 1}, {"x-fal-billable-units": str(self._seconds(job))}
            case "moderated":
                return 422, {"detail": [_REFUSAL | {"input": job["input"]}]}, {"X-Fal-Retryable": "false"}
            case "failed" | "cancelled" as how:
                status, fault = _FAULTS[how]
                return status, fault, {"X-Fal-Error-Type": fault["error_type"]}
        return self.refusal(400, "Request is still in progress")

    def _list(self, query: dict[str, str]) -> Next:
        """Return the requests of an endpoint in between."""
        over: list[dict[str, Any]] = [
            {"request_id": job["id"], "endpoint_id": job["endpoint"], "json_input": job["input"], "status_code": 200}
            for job in self.jobs.values()
            if job["endpoint"] == query["endpoint_id"]
            and query.get("start", "") <= job["at"].isoformat() < query.get("end", "z")
            and not self.hides_jobs
        ]
        return 200, _page("items", over, query)

    def _delete(self, path: str) -> Next:
        """Delete payloads and output files, as https://fal.ai/docs/platform-apis/v1/models/requests/payloads says."""
        assert re.fullmatch("/v1/models/requests/[^/]+/payloads", path), path
        job = self.jobs.get(path.split("/")[4])
        if job is None:
            return self.refusal(404, "Request not found")
        files = [{"link": f"{self.files_url}{job['id']}.mp4", "exception": None}]
        return self.erase(job, (200, {"cdn_delete_results": files}))

    def _billed(self, query: dict[str, str]) -> Next:
        """Return the requests in between, latest first, at the price of their seconds."""
        events: list[dict[str, Any]] = [
            {
                "request_id": job["id"],
                "endpoint_id": job["endpoint"],
                "timestamp": job["at"].isoformat().replace("+00:00", "Z"),
                "output_units": self._seconds(job),
                "unit_price": self.second_nanousd / 10**9,
                "percent_discount": None,
                "cost_estimate_nano_usd": self.cost_nanousd(job),
            }
            for job in reversed(self.jobs.values())
            if job["status"] in self.billed_as and query["start"] <= job["at"].isoformat() < query["end"]
        ]
        return 200, _page("billing_events", events, query)

    def _seconds(self, job: Job) -> float:
        return float(str(job["input"].get("duration", 5)).removesuffix("s"))

    def cost_nanousd(self, job: Job) -> int:
        """Return the cost of a request, unless a test sets another."""
        return int(job.get("cost_nanousd", self._seconds(job) * self.second_nanousd))

    @property
    def invoice_nanousd(self) -> int:
        """What the month's invoice comes to."""
        return sum(self.cost_nanousd(job) for job in self.jobs.values() if job["status"] in self.billed_as)


def _page(name: str, whole: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """Return half of the requested page, so that more pages are read."""
    start, size = int(query.get("cursor", 0)), int(query["limit"]) // 2
    has_more = len(whole) > start + size
    return {
        name: whole[start : start + size],
        "next_cursor": str(start + size) if has_more else None,
        "has_more": has_more,
    }


def _shown(key: Ed25519PrivateKey) -> str:
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")
