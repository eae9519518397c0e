"""ComfyUI: your own server that runs workflows, each under an identifier that we choose.

    GET  /userdata/reelkeeper%2FMODEL.json    a model's workflow, as "Export (API)" of the editor writes it
    POST /upload/image                        the image to start from
    POST /prompt       {"prompt": workflow, "prompt_id"}; an identifier that is sent twice runs twice
    GET  /queue        which run and which wait
    GET  /history/ID   how one ended; {} until it has
    POST /queue        {"delete": [ID]}; POST /interrupt {"prompt_id": ID}
    POST /history      {"delete": [ID]}; no call deletes a file
    GET  /view         an output file

Queue and history are in the server's memory: an identifier in neither was never received, or was lost by a restart
before anything was made. Nodes that spend credits of a Comfy account do not run, since its key is never sent.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode
from uuid import NAMESPACE_URL, uuid5

import httpx

from reelkeeper.adapters.providers.contract import Guarantee, Order, Standing, Status, Submission, Way
from reelkeeper.adapters.providers.inputs import seconds_of, seed_of, with_parameters
from reelkeeper.adapters.providers.transport import OverHttp, Transport, is_about_content, job_name, words
from reelkeeper.errors import GenerationRefused, GenerationUnknown, ProviderBusy
from reelkeeper.model.jobs import VendorErasure

_MODEL: Final = re.compile(r"[\w-][\w.-]*")
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_VIDEOS: Final = (".mp4", ".webm", ".mov", ".mkv")
_BUSY_SECONDS: Final = 30.0
_ALWAYS_SET: Final = {"width", "height", "seconds", "fps", "frames", "seed", "key"}


class ComfyUIProvider(OverHttp):
    """A ComfyUI server at `url`, of 2025 or later; `key` is for a proxy in front, as it has no authentication."""

    name = "comfyui"
    takes_image_bytes = True
    guarantee = Guarantee((Way.KEY,), absence_is_proof=True, bills=False)

    def __init__(self, url: str, key: str | None = None, *, hosts: tuple[str, ...] = (), **how: Any) -> None:  # noqa: ANN401  of Transport
        self._calls = Transport(url, {"Authorization": f"Bearer {key}"} if key else {}, hosts=hosts, **how)

    def submit(self, submission: Submission) -> str:
        """Queue the model's filled-in workflow. A failure before that leaves no job in doubt."""
        try:
            workflow = self._workflow(submission.order.model)
            image = self._upload(submission) if submission.image else None
        except GenerationUnknown as unknown:
            raise ProviderBusy(str(unknown), _BUSY_SECONDS) from None
        sent = {"prompt": _fill(workflow, submission, image), "prompt_id": _identifier(submission.key)}
        return job_name(self._calls.submit("/prompt", sent).fields.get("prompt_id"))

    def find(self, order: Order) -> Standing | None:
        """Look for the identifier that is derived from the job's key."""
        return self.look(_identifier(str(order.provider_key)))

    def look(self, job_id: str) -> Standing | None:
        """Read the queue, then the history: a run that is in neither is not on the server."""
        queue = self._get("/queue")
        for name, status in (("queue_running", Status.RUNNING), ("queue_pending", Status.QUEUED)):
            runs = queue.get(name, [])
            # guard provider.comfy_queue: a gateway's answer counts as an empty queue, and a run is made again
            if name not in queue or not isinstance(runs, list):
                raise GenerationUnknown("the provider's answer has no queue")
            if any(isinstance(run, list) and job_id in run[1:2] for run in runs):
                return Standing(job_id, status)
        history = self._get(f"/history/{quote(job_id, safe='')}")
        # guard provider.comfy_history: a gateway's answer counts as an empty history, and a run is made again
        if history and job_id not in history:
            raise GenerationUnknown("the provider's answer is not a history")
        return self._ended(job_id, history[job_id]) if job_id in history else None

    def cancel(self, job_id: str) -> None:
        """Remove it from the queue, and interrupt it if it is running."""
        for path, body in (("/queue", {"delete": [job_id]}), ("/interrupt", {"prompt_id": job_id})):
            try:
                self._calls.ask("POST", path, body)
            except GenerationUnknown:
                continue

    def erase(self, job_id: str) -> VendorErasure:
        """Delete its entry of the history, which has the prompt; its files stay on the server's disk."""
        self._calls.ask("POST", "/history", {"delete": [job_id]})
        # guard provider.comfy_erased: a prompt that the server still has is certified as deleted
        if self.look(job_id):
            raise GenerationUnknown("the provider still has the run")
        return VendorErasure.PARTLY

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._calls.get(path, "a run")
        # guard provider.comfy_answer: a missing page counts as an unknown run, and the run is made again
        if answer is None or not isinstance(answer.body, dict):
            raise GenerationUnknown("the provider gave no complete answer about a run")
        return answer.fields

    def _workflow(self, model: str) -> dict[str, Any]:
        if not _MODEL.fullmatch(model):
            raise GenerationRefused(f"{model!r} is not the name of a workflow: use letters, digits, '.', '_' and '-'")
        answer = self._calls.get(f"/userdata/reelkeeper%2F{model}.json", "a workflow")
        nodes = answer.fields if answer else {}
        if not nodes or not all(isinstance(node, dict) and "class_type" in node for node in nodes.values()):
            raise GenerationRefused(f"the server has no workflow reelkeeper/{model}.json in the format of Export (API)")
        return nodes

    def _upload(self, submission: Submission) -> str:
        name = f"{submission.order.request['image_sha256']}.image"
        form = {"image": (name, submission.image), "overwrite": (None, "true")}
        encoded = httpx.Request("POST", "http://form/", files=form)  # type: ignore[arg-type]  # as httpx documents it
        headers = {"Content-Type": encoded.headers["Content-Type"]}
        return job_name(self._calls.submit("/upload/image", encoded.read(), headers).fields.get("name"))

    def _ended(self, job_id: str, entry: object) -> Standing:
        run = entry if isinstance(entry, dict) else {}
        status = run.get("status")
        word = status.get("status_str") if isinstance(status, dict) else None
        if word == "success":
            return Standing(job_id, Status.SUCCEEDED, 1.0, video_url=self._video_url(run.get("outputs")))
        if word != "error":
            return Standing(job_id, Status.RUNNING)  # an undocumented state says nothing, and is waited for
        messages = status.get("messages") if isinstance(status, dict) else None
        events = {str(event[0]): event[1] for event in messages or [] if isinstance(event, list) and len(event) > 1}
        if "execution_interrupted" in events:
            return Standing(job_id, Status.CANCELLED, error="it was interrupted")
        error = events.get("execution_error")
        message = words({"error": error.get("exception_message")} if isinstance(error, dict) else None)
        return Standing(
            job_id, Status.MODERATED if is_about_content({"error": message}) else Status.FAILED, error=message
        )

    def _video_url(self, outputs: object) -> str | None:
        """Return the URL of the first video, or of a preview if no video is kept."""
        files = sorted(_files(outputs), key=lambda file: file.get("type") != "output")
        places = [{name: str(file.get(name, "")) for name in ("filename", "subfolder", "type")} for file in files]
        return f"{self._calls.url}/view?{urlencode(places[0])}" if places else None


def _identifier(key: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"reelkeeper:{key}"))


def _files(outputs: object) -> Iterator[dict[str, Any]]:
    for node in outputs.values() if isinstance(outputs, dict) else ():
        for files in node.values() if isinstance(node, dict) else ():
            for file in files if isinstance(files, list) else ():
                if isinstance(file, dict) and str(file.get("filename")).lower().endswith(_VIDEOS):
                    yield file


def _fill(workflow: dict[str, Any], submission: Submission, image: str | None) -> dict[str, Any]:
    """Fill the request into the workflow. Raises GenerationRefused if either lacks a field that the other needs."""
    request, seconds = submission.order.request, seconds_of(submission.order.request)
    shape = {name: request.get(name) for name in ("prompt", "width", "height", "fps", "audio")} | {
        "negative_prompt": request.get("negative_prompt") or "",
        "seconds": seconds,
        "frames": int(seconds * request["fps"]) + 1,  # the first image, and further ones
        "seed": seed_of(submission.key) if request.get("seed") is None else request["seed"],
        "image": image,
        "key": submission.key,
    }
    values = {name: value for name, value in with_parameters(shape, request).items() if value is not None}
    used: set[str] = set()
    filled: dict[str, Any] = _filled(workflow, values, used)
    needed = {name for name, value in values.items() if value != ""} - _ALWAYS_SET
    if needed - used:
        raise GenerationRefused(f"its workflow has no place for {', '.join(sorted(needed - used))}")
    return filled


def _filled(part: Any, values: Mapping[str, Any], used: set[str]) -> Any:  # noqa: ANN401  whatever JSON can say
    if isinstance(part, dict):
        return {name: _filled(inner, values, used) for name, inner in part.items()}
    if isinstance(part, list):
        return [_filled(inner, values, used) for inner in part]
    if not isinstance(part, str):
        return part
    names = _PLACE.findall(part)
    if missing := {*names} - {*values}:
        raise GenerationRefused(f"its workflow needs {', '.join(sorted(missing))}, which the request does not have")
    used.update(names)
    # A placeholder that is a whole value keeps its type, such as a number.
    return values[names[0]] if _PLACE.fullmatch(part) else _PLACE.sub(lambda place: str(values[place[1]]), part)
