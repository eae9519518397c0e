"""A vendor's own client against a double, run in .venv-vendors: CLIENT ACTION URL TOKEN; says in JSON what it saw.

As CLIENT ACTION, `storm CLIENT` URL TOKEN COUNT asks for many videos at once, and counts the errors.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PROMPT = "a cat"
Said = dict[str, Any]


def fal(action: str, url: str, token: str, prompt: str = PROMPT) -> Said:
    os.environ["FAL_KEY"] = token
    import fal_client  # noqa: PLC0415  each client is loaded alone

    fal_client.client.QUEUE_URL_FORMAT = f"{url}/"
    handle = fal_client.submit("fal-ai/veo3.1/fast", arguments={"prompt": prompt})
    if action == "cancel":
        handle.cancel()
    if action in ("submit", "cancel"):
        return {"id": handle.request_id}
    seen = [type(event).__name__ for event in handle.iter_events(interval=0.01)]
    return {"id": handle.request_id, "seen": list(dict.fromkeys(seen)), "video": handle.get()["video"]["url"]}


def replicate(action: str, url: str, token: str, prompt: str = PROMPT) -> Said:
    import replicate as client  # noqa: PLC0415  each client is loaded alone

    api = client.Client(api_token=token, base_url=url)
    prediction = api.models.predictions.create(model=("wan-video", "wan-2.7"), input={"prompt": prompt})
    if action == "cancel":
        prediction.cancel()
    if action in ("submit", "cancel"):
        return {"id": prediction.id, "seen": [prediction.status]}
    seen = [prediction.status]
    while prediction.status not in ("succeeded", "failed", "canceled"):
        prediction.reload()
        seen.append(prediction.status)
    if prediction.error:
        raise RuntimeError(prediction.error)
    listed = [entry.id for entry in api.predictions.list().results]
    return {"id": prediction.id, "seen": list(dict.fromkeys(seen)), "video": prediction.output[0], "listed": listed}


def webhook(headers: str, body: str, secret: str) -> Said:
    from replicate.webhook import Webhooks, WebhookSigningSecret  # noqa: PLC0415  each client is loaded alone

    signing = WebhookSigningSecret(key=secret)
    Webhooks.validate(headers=json.loads(headers), body=body, secret=signing, tolerance=300)
    return {"signed": True}


def openai(action: str, url: str, token: str, prompt: str = PROMPT) -> Said:
    import openai as client  # noqa: PLC0415  each client is loaded alone

    api = client.OpenAI(api_key=token, base_url=url)
    video = api.videos.create(prompt=prompt, model="wan3", seconds="4", size="1280x720")
    if action == "cancel":
        return {"id": video.id, "deleted": api.videos.delete(video.id).deleted}
    if action == "submit":
        return {"id": video.id}
    seen = [video.status]
    while video.status not in ("completed", "failed"):
        video = api.videos.retrieve(video.id)
        seen.append(video.status)
    if video.error:
        raise RuntimeError(video.error.message)
    content = api.videos.download_content(video.id).read().decode()
    listed = [entry.id for entry in api.videos.list()]
    return {"id": video.id, "seen": list(dict.fromkeys(seen)), "video": content, "listed": listed}


def openrouter(action: str, url: str, token: str, prompt: str = PROMPT) -> Said:
    from openrouter import OpenRouter  # noqa: PLC0415  each client is loaded alone

    with OpenRouter(api_key=token, server_url=url) as api:
        job = api.video_generation.generate(
            model="google/veo-3.1", prompt=prompt, duration=4, resolution="720p", aspect_ratio="16:9"
        )
        seen = [job.status]
        if action == "submit":
            return {"id": job.id, "seen": seen}
        while job.status not in ("completed", "failed", "cancelled", "expired"):
            job = api.video_generation.get_generation(job_id=job.id)
            seen.append(job.status)
        if job.error:
            raise RuntimeError(job.error)
        content = api.video_generation.get_video_content(job_id=job.id).read().decode()
        cost = job.usage.cost if job.usage else None
    return {"id": job.id, "seen": list(dict.fromkeys(seen)), "video": content, "cost": cost}


def runway(action: str, url: str, token: str, prompt: str = PROMPT) -> Said:
    import runwayml  # noqa: PLC0415  each client is loaded alone

    api = runwayml.RunwayML(api_key=token, base_url=url)
    task = api.text_to_video.create(model="gen4.5", prompt_text=prompt, ratio="1280:720", duration=5)
    if action == "cancel":
        api.tasks.delete(task.id)
    if action in ("submit", "cancel"):
        return {"id": task.id}
    seen: list[str] = []
    while not seen or seen[-1] not in ("SUCCEEDED", "FAILED"):
        now = api.tasks.retrieve(task.id)
        seen.append(now.status)
    if now.status == "FAILED":
        raise RuntimeError(now.failure)
    return {"id": task.id, "seen": list(dict.fromkeys(seen)), "video": now.output[0], "credits": now.cost.credits}


def storm(name: str, url: str, token: str, count: str) -> Said:
    """Ask for videos as a service would, eight at a time, and give the errors that it is left with by name."""

    def submit(number: int) -> str:
        try:
            CLIENTS[name]("submit", url, token, f"cat {number}")
        except Exception as error:  # noqa: BLE001  it is what is counted
            return type(error).__name__
        return ""

    with ThreadPoolExecutor(8) as pool:
        errors = Counter(filter(None, pool.map(submit, range(int(count)))))
    return {"errors": errors}


CLIENTS: dict[str, Callable[..., Said]] = {
    "fal": fal,
    "replicate": replicate,
    "webhook": webhook,
    "runway": runway,
    "openrouter": openrouter,
    "openai": openai,
    "storm": storm,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    try:
        said = CLIENTS[name](*arguments)
    except Exception as error:  # noqa: BLE001  it is what the test asks for
        said = {"error": type(error).__name__, "words": str(error)}
    sys.stdout.write(json.dumps(said))
