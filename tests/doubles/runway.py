"""A double of Runway's tasks, as api.dev.runwayml.com answers them."""

from collections import Counter
from typing import Any

from tests.doubles.vendor import TOKEN, Job, Next, Request, Vendor

CREDITS = 60  # that each task costs, moderated or not
_WORDS = {"running": "RUNNING", "succeeded": "SUCCEEDED", "expired": "SUCCEEDED", "cancelled": "CANCELLED"}
_FAILURES = {
    "failed": {"failure": "The output was broken", "failureCode": "INTERNAL.BAD_OUTPUT.CODE01"},
    "moderated": {"failure": "The text prompt did not pass moderation.", "failureCode": "SAFETY.INPUT.TEXT"},
}
_FIELDS = {"model", "promptText", "promptImage", "ratio", "duration", "seed", "audio", "negativePrompt", "resolution"}


class RunwayDouble(Vendor):
    """It refuses what it does not know, and forgets what is deleted."""

    def refusal(self, status: int, told: str) -> Next:
        return status, {"error": told}

    def route(self, request: Request) -> Next:  # noqa: PLR0911  a table
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refusal(401, "You did not provide a valid API key")
        if request.headers.get("X-Runway-Version") != "2024-11-06":
            return self.refusal(400, "X-Runway-Version is required")
        if request.method == "POST" and request.path in ("/v1/text_to_video", "/v1/image_to_video"):
            return self._begin(request.json)
        if request.path == "/v1/organization/usage":
            return 200, {"results": self._used(request.json), "models": []}
        job = self.jobs.get(request.path.removeprefix("/v1/tasks/"))
        if job is None or job["status"] == "cancelled":
            return self.refusal(404, "Task not found")
        if request.method == "DELETE":
            return self.stop_or_erase(job, (204, None))
        return 200, self._task(self.look(job))

    def _begin(self, body: dict[str, Any]) -> Next:
        if unknown := {*body} - _FIELDS:
            return self.refusal(400, f"Unrecognized keys: {sorted(unknown)}")
        shown = {"prompt": body["promptText"], **body}
        answer = {"estimatedCost": {"credits": CREDITS}}
        return self.accept(body["promptText"], lambda job: (200, {"id": job["id"], **answer}), input=shown)

    def _used(self, asked: dict[str, str]) -> list[dict[str, Any]]:
        """Add up the credits of the tasks that have ended, by the day and model of each."""
        used: Counter[tuple[str, str]] = Counter()
        for job in self.book:
            day = f"{job['at']:%Y-%m-%d}"
            if job["status"] != "running" and asked["startDate"] <= day < asked["beforeDate"]:
                used[day, job["input"]["model"]] += self.credits_of(job)
        return [
            {"date": day, "usedCredits": [{"amount": amount, "model": model}]} for (day, model), amount in used.items()
        ]

    @staticmethod
    def credits_of(job: Job) -> int:
        """Return what a task costs that has ended."""
        return CREDITS if job["status"] != "failed" else 0

    def _task(self, job: Job) -> dict[str, Any]:
        status, task = job["status"], {"id": job["id"], "createdAt": job["at"].isoformat()}
        if status == "running":
            return task | {"status": "RUNNING", "progress": 0.5}
        made = [] if self.has_expired else [f"{self.files_url}{job['id']}.mp4?_jwt=signed"]
        ended = {"output": made} if status in ("succeeded", "expired") else _FAILURES.get(status, {})
        return task | ended | {"status": _WORDS.get(status, "FAILED"), "cost": {"credits": self.credits_of(job)}}
