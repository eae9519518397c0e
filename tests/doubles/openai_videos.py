"""A double of a server of /v1/videos, as OpenAI's client asks for it."""

from email.message import Message
from email.parser import BytesParser
from typing import Any

from tests.doubles.vendor import TOKEN, Job, Next, Request, Vendor

_ERRORS = {
    "failed": {"code": "server_error", "message": "CUDA out of memory"},
    "moderated": {"code": "moderation_blocked", "message": "Your request was blocked by our moderation system."},
}
_WORDS = {"succeeded": "completed", "expired": "completed"}


class OpenAIDouble(Vendor):
    """`fails_by_status`: a failed job is answered with its failure's HTTP status, as vLLM-Omni does.

    `running_word`: the status of a job that is not over, such as OpenRouter's "pending".
    """

    fails_by_status = False
    running_word = "in_progress"  # other servers have others

    def __init__(self, video: bytes = b"a video") -> None:
        super().__init__(video)
        self.url = f"{self.url}/v1"

    def refusal(self, status: int, told: str) -> Next:
        return status, {"error": {"message": told, "type": "invalid_request_error", "param": None, "code": None}}

    def route(self, request: Request) -> Next:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refusal(401, "Incorrect API key provided")
        parts = request.path.removeprefix("/v1/videos").strip("/").split("/")
        if request.method == "POST" and parts == [""]:
            form = _form(request)
            if not form.get("prompt"):
                return self.refusal(400, "prompt is required")
            return self.accept(str(form["prompt"]), lambda job: (200, self._video(job)), form=form)
        if parts == [""]:
            return 200, self._list(request.query)
        job = self.jobs.get(parts[0])
        if job is None or job["status"] == "cancelled":  # engines forget what is deleted
            return self.refusal(404, "No such video")
        return self._asked(job, request.method, parts[1:])

    def _asked(self, job: Job, method: str, rest: list[str]) -> Next:
        if rest == ["content"]:
            is_there = job["status"] == "succeeded" and not self.has_expired
            return (200, self.video, {"Content-Type": "video/mp4"}) if is_there else self.refusal(404, "not there")
        if method == "DELETE":
            return self.stop_or_erase(job, (200, {"id": job["id"], "object": "video.deleted", "deleted": True}))
        shown = self._video(self.look(job))
        return (500 if self.fails_by_status and shown["status"] == "failed" else 200), shown

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        """Return a page, the newest first, after the job that is named."""
        newest = [self._video(job) for job in reversed(self.jobs.values())]
        start = [video["id"] for video in newest].index(query["after"]) + 1 if "after" in query else 0
        shown = newest[start : start + int(query.get("limit", 20))]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return {"object": "list", "data": shown, "has_more": len(newest) > start + len(shown), **ends}

    def _video(self, job: Job) -> dict[str, Any]:
        return {
            "id": job["id"],
            "object": "video",
            "model": job["form"].get("model", "sora-2"),
            "status": self.running_word if job["status"] == "running" else _WORDS.get(job["status"], "failed"),
            "progress": 100 if job["status"] == "succeeded" else 50,
            "created_at": int(job["at"].timestamp()),
            "seconds": job["form"].get("seconds", "4"),
            "size": job["form"].get("size", "720x1280"),
            "prompt": job["form"]["prompt"],
            "error": _ERRORS.get(job["status"]),
        }


def _form(request: Request) -> dict[str, str | bytes]:
    """Read a form of several parts, or JSON, as servers of the format do."""
    kind = request.headers.get("Content-Type") or ""
    if not kind.startswith("multipart/"):
        return request.json
    whole = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + request.body)
    parts: list[Message] = whole.get_payload()  # type: ignore[assignment]  # a form's parts are messages
    read: dict[str, str | bytes] = {}
    for part in parts:
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(content, bytes)
        read[str(name)] = content if part.get_filename() else content.decode()
    return read
