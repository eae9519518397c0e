"""A double of a provider of videos, on a local port, which speaks the format of `adapters/providers/http`.

It makes a job per request, whatever the key, unless it `honours_keys`: what is sent twice is paid for twice, and shows.
"""

from typing import Any

from tests.doubles.vendor import LOST, TOKEN, Job, Next, Request, Vendor

__all__ = ["LOST", "TOKEN", "Next", "ProviderDouble"]


class ProviderDouble(Vendor):
    """Jobs end with the fields of `ends_as`; those whose prompt is `fails`, without a video."""

    def __init__(self, video: bytes = b"a video") -> None:
        super().__init__(video)
        self.honours_keys = False
        self.fails: str | None = None
        self.ends_as: dict[str, Any] = {"status": "succeeded", "cost_usd": "0.0123456", "video_url": "/video.mp4"}

    def end_as(self, how: str) -> None:
        self.ends_as |= {"status": how, "error": f"it has {how}"}

    def refusal(self, status: int, told: str) -> Next:
        return status, {"error": told}

    def route(self, request: Request) -> Next:
        if request.method == "POST":
            return self._begin(request.json)
        if request.path == "/jobs":
            key = request.query["key"]
            return 200, {
                "jobs": [_shown(job) for job in self.jobs.values() if job["key"] == key and not self.hides_jobs]
            }
        if request.path == "/video.mp4":
            return (404, None) if self.has_expired else (200, self.video)
        job = self.jobs.get(request.path.removeprefix("/jobs/"))
        return self._stands(job, request.method) if job else (404, None)

    def look(self, job: Job) -> Job:
        job["looks"] += 1
        if job["looks"] >= self.looks and job["status"] == "running":
            failed = self.fails is not None and job["request"].get("prompt") == self.fails
            job.update({"status": "failed", "error": self.fails} if failed else self.ends_as)
        return job

    def _stands(self, job: Job, method: str) -> Next:
        if method == "DELETE":
            return self.stop_or_erase(job, (204, None))
        return 200, _shown(self.look(job))

    def _begin(self, body: dict[str, Any]) -> Next:
        again = [job for job in self.jobs.values() if job["key"] == body["key"]] if self.honours_keys else []
        if again:
            planned = self.queue.pop(0) if self.queue else None
            return planned or (201, _shown(again[0]))
        fields = {name: value for name, value in body.items() if name != "key"}
        return self.accept(body.get("key", ""), lambda job: (201, _shown(job)), progress=0.5, **fields)


def _shown(job: Job) -> Job:
    return {name: value for name, value in job.items() if name not in ("at", "looks")}
