"""A double of a ComfyUI server: queue, history and files, as server.py and execution.py of its 0.3.64 have them."""

from datetime import UTC, datetime
from typing import Any

from tests.doubles.vendor import HTML, Job, Next, Request, Vendor

WORKFLOW = {  # one that makes a video of whatever is asked for
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}", "clip": ["9", 0]}, "_meta": {"title": "P"}},
    "2": {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": "{{width}}", "height": "{{height}}", "length": "{{frames}}", "batch_size": 1},
    },
    "3": {"class_type": "KSampler", "inputs": {"seed": "{{seed}}", "positive": ["1", 0], "latent_image": ["2", 0]}},
    "4": {"class_type": "SaveVideo", "inputs": {"filename_prefix": "reelkeeper/{{key}}", "video": ["3", 0]}},
}
_ERRORS = {
    "failed": {"exception_type": "torch.OutOfMemoryError", "exception_message": "Allocation on device"},
    "moderated": {"exception_type": "Exception", "exception_message": "NSFW content was flagged by the safety node"},
}


class ComfyUIDouble(Vendor):
    """The first run goes on at each look, and so do those that wait, so that jobs here do not wait for each other."""

    def __init__(self, video: bytes = b"a video") -> None:
        super().__init__(video)
        self.workflows: dict[str, Any] = {"wan": WORKFLOW}
        self.uploaded: dict[str, bytes] = {}
        self.unreadable: dict[str, datetime] = {}  # jobs whose file was last answered by what is no video, and when

    def refusal(self, status: int, told: str) -> Next:
        error = {"type": "prompt_outputs_failed_validation", "message": told, "details": "", "extra_info": {}}
        return status, {"error": error, "node_errors": {}}

    def restart(self) -> None:
        """Forget everything, as queue and history are in its memory."""
        self.jobs.clear()

    def answer(self, request: Request) -> Next:
        """Serve workflows and files separately from queries about runs, to which `reads` apply."""
        if self.is_down or request.path in ("/queue", "/prompt") or request.path.startswith("/history/"):
            return super().answer(request)
        with self.lock:
            self.connections += 1
            self.tokens.append(request.headers.get("Authorization"))
            return self.spoilt(request) or self.route(request)

    def spoilt(self, request: Request) -> Next | None:
        spoilt = super().spoilt(request)
        if request.path == "/view":
            job_id = request.query["filename"].removesuffix(".mp4")
            self.unreadable.pop(job_id, None)
            if spoilt == HTML:
                self.unreadable[job_id] = datetime.now(UTC)
        return spoilt

    def route(self, request: Request) -> Next:  # noqa: PLR0911  a table
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["userdata", file]:
                found = self.workflows.get(file.removeprefix("reelkeeper%2F").removesuffix(".json"))
                return (404, None) if found is None else (200, found)
            case "GET", ["view"]:
                return self._view(request.query)
            case "POST", ["upload", "image"]:
                name = request.body.split(b'filename="')[1].split(b'"')[0].decode()
                self.uploaded[name] = request.body
                return 200, {"name": name, "subfolder": "", "type": "input"}
            case "POST", ["prompt"]:
                return self._begin(request.json)
            case "GET", ["queue"]:
                return 200, self._queue()
            case "GET", ["history", prompt_id]:
                return 200, self._history(prompt_id)
            case "POST", ["history"]:
                for job in [job for job in self.jobs.values() if job["prompt_id"] in request.json["delete"]]:
                    self.erase(job, (200, None))
                return 200, None
            case "POST", [word]:
                return self._stop(request.json.get("delete", [request.json.get("prompt_id")]), word)
        return 404, None

    def _begin(self, body: dict[str, Any]) -> Next:
        if not isinstance(body["prompt"]["2"]["inputs"]["width"], int):
            return self.refusal(400, "Prompt outputs failed validation")
        prefix = body["prompt"]["4"]["inputs"]["filename_prefix"]
        described = {"prompt_id": body["prompt_id"], "number": len(self.jobs), "node_errors": {}}
        return self.accept(
            prefix.removeprefix("reelkeeper/"),
            lambda _: (200, described),
            prompt_id=body["prompt_id"],
            graph=body["prompt"],
            input={"prompt": body["prompt"]["1"]["inputs"]["text"]},
        )

    def _queue(self) -> dict[str, Any]:
        """Show the runs that are not over, each a look nearer to its end."""
        for job in self._under_way():
            self.look(job)
        there = [] if self.hides_jobs else enumerate(self._under_way())
        shown = [[number, job["prompt_id"], job["graph"], {}, ["4"]] for number, job in there]
        return {"queue_running": shown[:1], "queue_pending": shown[1:]}

    def _under_way(self) -> list[Job]:
        return [job for job in self.jobs.values() if job["status"] == "running"]

    def _history(self, prompt_id: str) -> dict[str, Any]:
        """Show the last run under an identifier: an earlier one is overwritten."""
        runs = [job for job in self.jobs.values() if job["prompt_id"] == prompt_id and job["status"] != "running"]
        return {} if not runs or self.hides_jobs else {prompt_id: self._entry(runs[-1])}

    def _entry(self, job: Job) -> dict[str, Any]:
        messages: list[Any] = [["execution_start", {"prompt_id": job["prompt_id"], "timestamp": 1764072000000}]]
        if job["status"] in ("succeeded", "expired"):
            file = {"filename": f"{job['id']}.mp4", "subfolder": "reelkeeper", "type": "output"}
            preview = file | {"filename": "preview.mp4", "type": "temp"}
            outputs: dict[str, Any] = {"5": {"gifs": [preview]}, "4": {"images": [file], "animated": [True]}}
            return {"outputs": outputs, "status": {"status_str": "success", "completed": True, "messages": messages}}
        error = _ERRORS.get(job["status"])
        messages.append(["execution_error", error] if error else ["execution_interrupted", {"node_id": "3"}])
        return {"outputs": {}, "status": {"status_str": "error", "completed": False, "messages": messages}}

    def _view(self, query: dict[str, str]) -> Next:
        job = self.jobs.get(query["filename"].removesuffix(".mp4"))
        is_there = job and job["status"] == "succeeded" and not self.has_expired
        return (200, self.video, {"Content-Type": "video/mp4"}) if is_there else (404, None)

    def _stop(self, prompt_ids: list[str], word: str) -> Next:
        """Interrupt the run that is under way, or delete one that waits, of which nothing is left."""
        running, waiting = self._under_way()[:1], self._under_way()[1:]
        for job in running if word == "interrupt" else waiting:
            if job["prompt_id"] in prompt_ids:
                self.cancel(job)
        return 200, None
