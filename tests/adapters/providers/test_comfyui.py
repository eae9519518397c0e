"""Features of ComfyUI only: workflows with placeholders, identifiers that we choose, and memory lost by a restart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import ComfyUIProvider, RemoteGenerator
from reelkeeper.adapters.providers.contract import Order, Status, Submission
from reelkeeper.errors import GenerationFailed, GenerationRefused, GenerationUnknown, ProviderBusy
from tests.adapters.providers.notes import ORDER, Notes
from tests.doubles.comfyui import WORKFLOW, ComfyUIDouble
from tests.doubles.vendor import LOST, TOKEN, Next
from tests.marks import marked

HOW: dict[str, Any] = {"allow_private": True, "timeout_seconds": 60.0}
WAN = ORDER._replace(model="wan")


@pytest.fixture
def comfy() -> Iterator[ComfyUIDouble]:
    with ComfyUIDouble().serving() as double:
        yield double


@pytest.fixture
def provider(comfy: ComfyUIDouble) -> ComfyUIProvider:
    return ComfyUIProvider(comfy.url, TOKEN, **HOW)


def asked(**changes: object) -> Order:
    return WAN._replace(request={**WAN.request, **changes})


def test_a_workflow_is_filled_in_and_a_number_stays_one(comfy: ComfyUIDouble, provider: ComfyUIProvider) -> None:
    prompt = "a {{key}} and a cat"
    provider.submit(Submission("j1-1", asked(prompt=prompt, seed=7)))
    (job,) = comfy.jobs.values()
    inputs = {name: node["inputs"] for name, node in job["graph"].items()}
    assert inputs["1"] == {"text": prompt, "clip": ["9", 0]}
    assert inputs["2"] == {"width": 1280, "height": 720, "length": 121, "batch_size": 1}
    assert inputs["3"]["seed"] == 7
    assert inputs["4"]["filename_prefix"] == "reelkeeper/j1-1"


def test_the_image_is_put_on_the_server_and_named(comfy: ComfyUIDouble, provider: ComfyUIProvider) -> None:
    load = {"class_type": "LoadImage", "inputs": {"image": "{{image}}"}}
    comfy.workflows["i2v"] = {**WORKFLOW, "6": load}
    order = asked(image_sha256="e" * 64)._replace(model="i2v")
    provider.submit(Submission("j1-1", order, image=b"\x89PNG a picture"))
    (job,) = comfy.jobs.values()
    assert b"\x89PNG a picture" in comfy.uploaded[job["graph"]["6"]["inputs"]["image"]]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (
            WAN._replace(model="another"),
            snapshot("the server has no workflow reelkeeper/another.json in the format of Export (API)"),
        ),
        (
            WAN._replace(model="of-the-editor"),
            snapshot("the server has no workflow reelkeeper/of-the-editor.json in the format of Export (API)"),
        ),
        (
            WAN._replace(model="../../secrets"),
            snapshot("'../../secrets' is not the name of a workflow: use letters, digits, '.', '_' and '-'"),
        ),
        (WAN._replace(model="stepped"), snapshot("its workflow needs steps, which the request does not have")),
        (asked(parameters={"steps": 4}), snapshot("its workflow has no place for steps")),
        (asked(negative_prompt="a dog"), snapshot("its workflow has no place for negative_prompt")),
        (
            asked(parameters={"image": "of-another.png"}),
            snapshot("parameter 'image' is 'of-another.png', but the request has None"),
        ),
    ],
)
def test_a_request_that_a_workflow_cannot_make_is_refused_and_not_sent(
    comfy: ComfyUIDouble, provider: ComfyUIProvider, order: Order, words: str
) -> None:
    comfy.workflows |= {"of-the-editor": {"nodes": [], "links": []}, "stepped": {"1": {"class_type": "{{steps}}"}}}
    with pytest.raises(GenerationRefused) as refused:
        provider.submit(Submission("j1-1", order))
    assert str(refused.value) == words
    assert comfy.submitted == []


def test_a_failure_before_a_run_is_queued_leaves_no_job_in_doubt(
    comfy: ComfyUIDouble, provider: ComfyUIProvider
) -> None:
    comfy.is_down = True
    with pytest.raises(ProviderBusy, match="503"):
        provider.submit(Submission("j1-1", WAN))


@pytest.mark.parametrize("answer", [(404, None), (200, b"[]"), (200, {"error": "a proxy's"}), (200, {})])
def test_an_answer_not_from_the_server_never_means_that_a_run_is_unknown(
    comfy: ComfyUIDouble, provider: ComfyUIProvider, answer: Next
) -> None:
    name, comfy.looks = provider.submit(Submission("j1-1", WAN)), 9
    comfy.reads = [answer]
    with pytest.raises(GenerationUnknown):
        provider.look(name)
    if answer != (200, {}):  # that is how the history says that a run is not over
        comfy.reads = [(200, {"queue_running": [], "queue_pending": []}), answer]
        with pytest.raises(GenerationUnknown):
            provider.look(name)


def test_a_run_that_waits_is_deleted_and_one_that_runs_is_interrupted(
    comfy: ComfyUIDouble, provider: ComfyUIProvider
) -> None:
    comfy.looks = 50
    first, second = (provider.submit(Submission(f"j{number}-1", WAN)) for number in (1, 2))
    stands = [provider.look(name) for name in (first, second)]
    assert [standing and standing.status for standing in stands] == [Status.RUNNING, Status.QUEUED]
    provider.cancel(second)
    provider.cancel(first)
    ended = provider.look(first)
    assert (ended and ended.status, provider.look("unknown")) == (Status.CANCELLED, None)
    assert comfy.cancelled == ["p2", "p1"]


def test_after_a_restart_a_run_is_lost_and_made_again_under_its_key(comfy: ComfyUIDouble, tmp_path: Path) -> None:
    generator = RemoteGenerator(ComfyUIProvider(comfy.url, TOKEN, **HOW), poll_seconds=0.005)
    comfy.queue, comfy.hides_jobs, notes = [LOST], True, Notes()
    order = WAN._replace(provider_key="j1-1")
    with pytest.raises(GenerationUnknown):
        generator.make(order, tmp_path / "made.mp4", notes)
    comfy.restart()
    comfy.hides_jobs, comfy.queue, notes.key = False, [], "j1-1"
    assert generator.make(order._replace(was_parked=True), tmp_path / "made.mp4", notes).path.exists()
    with pytest.raises(GenerationFailed) as refused:  # one whose id was known is tried again
        generator.make(order._replace(provider_job_id="gone", was_parked=True), tmp_path / "made.mp4", Notes())
    assert marked(refused.value) == snapshot("the provider no longer knows its job 'gone'")
