"""Features of single vendors: names of models and fields, lists, and kinds of failure."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import (
    FalProvider,
    OpenAIProvider,
    OpenRouterProvider,
    RemoteGenerator,
    ReplicateProvider,
    RunwayProvider,
)
from reelkeeper.adapters.providers.contract import NO_IMAGES, Made, Order, Provider, Submission
from reelkeeper.errors import GenerationFailed, GenerationRefused, GenerationUnknown
from tests.adapters.providers.formats import FILES, HOOK
from tests.adapters.providers.notes import ORDER, Notes
from tests.doubles.fal import FalDouble
from tests.doubles.openai_videos import OpenAIDouble
from tests.doubles.openrouter import OpenRouterDouble
from tests.doubles.replicate import ReplicateDouble
from tests.doubles.vendor import LOST, TOKEN, Next
from tests.marks import marked

HOW: dict[str, Any] = {"hosts": FILES, "allow_private": True, "timeout_seconds": 60.0}


@pytest.fixture
def fal() -> Iterator[FalDouble]:
    with FalDouble().serving() as double:
        yield double


@pytest.fixture
def replicate() -> Iterator[ReplicateDouble]:
    with ReplicateDouble().serving() as double:
        yield double


@pytest.fixture
def openai() -> Iterator[OpenAIDouble]:
    with OpenAIDouble().serving() as double:
        yield double


@pytest.fixture
def openrouter() -> Iterator[OpenRouterDouble]:
    with OpenRouterDouble().serving() as double:
        yield double


def run(provider: Provider, order: Order, folder: Path, **how: Any) -> Made:  # noqa: ANN401  of RemoteGenerator
    return RemoteGenerator(provider, poll_seconds=0.005, **how).make(order, folder / "made.mp4", Notes())


def asked(model: str, **changes: object) -> Order:
    return ORDER._replace(model=model, request={**ORDER.request, **changes})


@pytest.mark.parametrize(
    ("model", "changes", "sent"),
    [
        ("fal-ai/veo3.1", {"seed": 7}, {"duration": "5s", "resolution": "720p", "aspect_ratio": "16:9", "seed": 7}),
        ("fal-ai/kling-video/v2.6/pro/text-to-video", {}, {"duration": "5", "aspect_ratio": "16:9"}),
        ("minimax/h3/text-to-video", {"height": 768}, {"duration": 5, "resolution": "768P", "aspect_ratio": "16:9"}),
        (
            "fal-ai/veo3.1",
            {"seed": 7, "width": 2160, "height": 3840, "audio": False},
            {"duration": "5s", "resolution": "4k", "aspect_ratio": "9:16", "seed": 7, "generate_audio": False},
        ),
        (
            "minimax/h3/text-to-video",
            {"height": 1440, "width": 2560},
            {"duration": 5, "resolution": "2K", "aspect_ratio": "16:9"},
        ),
        ("fal-ai/ltx-2/text-to-video", {"parameters": {"resolution": None}}, {"duration": 5, "aspect_ratio": "16:9"}),
    ],
)
def test_fal_is_asked_in_the_words_of_its_model(
    fal: FalDouble, tmp_path: Path, model: str, changes: dict[str, Any], sent: dict[str, Any]
) -> None:
    run(FalProvider(TOKEN, url=fal.url, **HOW), asked(model, **changes), tmp_path)
    (job,) = fal.jobs.values()
    assert job["input"] == {"prompt": "a cat", **sent}
    assert job["endpoint"] == model


@pytest.mark.parametrize("model", ["veo", "fal-ai/../secrets", "fal-ai//veo", "fal-ai/veo?x=y", "fal-ai/veo#a"])
def test_a_request_without_a_model_is_not_sent(
    fal: FalDouble, replicate: ReplicateDouble, tmp_path: Path, model: str
) -> None:
    said = []
    for provider in (FalProvider(TOKEN, url=fal.url, **HOW), ReplicateProvider(TOKEN, url=replicate.url, **HOW)):
        with pytest.raises(GenerationRefused) as refused:
            run(provider, asked(model), tmp_path)
        said.append(marked(refused.value, MODEL=repr(model)))
    assert said == snapshot(
        [
            "MODEL is not a model of fal: OWNER/ALIAS, optionally with a path",
            "MODEL is not a model of Replicate: OWNER/NAME, optionally with a version",
        ]
    )
    assert fal.connections + replicate.connections == 0


def test_a_request_of_fals_without_our_seed_is_in_doubt_and_not_absent(fal: FalDouble) -> None:
    provider = FalProvider(TOKEN, url=fal.url, **HOW)
    order = asked("fal-ai/veo3.1", parameters={"seed": None})._replace(provider_key="j1-1")
    provider.submit(Submission("j1-1", order))
    assert "seed" not in fal.jobs["p1"]["input"]
    with pytest.raises(GenerationUnknown):  # None says that fal never had it, and that nothing was paid
        provider.find(order)


def test_a_request_of_fals_is_named_whatever_address_its_answer_has(fal: FalDouble) -> None:
    named = "9f8c2a51-0000-4000-8000-000000000001"
    fal.queue = [(200, {"status": "IN_QUEUE", "request_id": named, "response_url": "https://[queue.fal.run"})]
    provider = FalProvider(TOKEN, url=fal.url, **HOW)
    assert provider.submit(Submission("j1-1", asked("fal-ai/veo3.1"))) == f"fal-ai/veo3.1/requests/{named}"


def test_fals_list_is_read_from_before_the_job_as_clocks_differ(
    fal: FalDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = fal._list

    def since(query: dict[str, str]) -> Next:
        hidden = [job for job in fal.jobs.values() if job["at"] < datetime.fromisoformat(query["start"])]
        return every(query) if not hidden else (200, {"items": [], "next_cursor": None, "has_more": False})

    monkeypatch.setattr(fal, "_list", since)
    provider, ours = FalProvider(TOKEN, url=fal.url, **HOW), datetime.now(UTC) + timedelta(minutes=2)
    order = asked("fal-ai/veo3.1")._replace(provider_key="j1-1", started_at=ours)
    provider.submit(Submission("j1-1", order))
    assert provider.find(order) is not None


def test_a_gateways_fault_at_fal_says_nothing_of_the_job_and_a_typed_one_ends_it(
    fal: FalDouble, tmp_path: Path
) -> None:
    provider = FalProvider(TOKEN, url=fal.url, **HOW)
    fal.reads = [(200, {"status": "COMPLETED", "logs": None}), (502, b"<html>nginx")]
    assert run(provider, asked("fal-ai/veo3.1"), tmp_path).path.exists()
    fal.reads = [(200, {"status": "COMPLETED"}), (504, {"detail": "slow"}, {"X-Fal-Error-Type": "startup_timeout"})]
    with pytest.raises(GenerationFailed, match="slow"):
        run(provider, asked("fal-ai/veo3.1"), tmp_path)


def test_fal_finds_its_own_request_among_others(fal: FalDouble) -> None:
    provider, order = FalProvider(TOKEN, url=fal.url, **HOW), asked("fal-ai/veo3.1")
    for number in range(60):
        provider.submit(Submission(f"j{number}-1", order))
    for number in (1, 55):  # of the first page, and of the second
        found = provider.find(order._replace(provider_key=f"j{number}-1"))
        assert found is not None
        assert found.id == f"fal-ai/veo3.1/requests/p{number + 1}"
    assert provider.find(order._replace(provider_key="never")) is None


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("wan-video/wan-2.7", "wan-video/wan-2.7"),
        (f"a/b:{'e' * 64}", ""),
        ("e" * 64, ""),
        ("deployments/us/ours", ""),
    ],
)
def test_replicate_is_asked_by_model_version_or_deployment(
    replicate: ReplicateDouble, tmp_path: Path, model: str, path: str
) -> None:
    run(ReplicateProvider(TOKEN, url=replicate.url, webhook_url=HOOK, **HOW), asked(model), tmp_path)
    (job,) = replicate.jobs.values()
    assert (job["model"], job["version"]) == (path, "e" * 64 if "e" * 64 in model else "hidden")
    assert job["webhook"] == f"{HOOK}?key=j1-1"
    assert job["input"] == {"prompt": "a cat", "duration": 5, "aspect_ratio": "16:9", "resolution": "720p"}


def test_fal_and_replicate_are_told_when_a_job_is_not_wanted_any_more(
    fal: FalDouble, replicate: ReplicateDouble, tmp_path: Path
) -> None:
    ends = datetime.now(UTC) + timedelta(minutes=90)
    for deadline in (ends, ends + timedelta(days=1), ends - timedelta(days=1), None):
        order = asked("fal-ai/veo3.1")._replace(deadline=deadline)
        run(FalProvider(TOKEN, url=fal.url, **HOW), order, tmp_path)
        run(ReplicateProvider(TOKEN, url=replicate.url, **HOW), order._replace(model="google/veo-3"), tmp_path)
    starts = [int(headers["X-Fal-Request-Timeout"] or 0) for headers in fal.posted_with]
    assert 5_380 < starts[0] <= 5_400
    assert 86_400 + 5_380 < starts[1] <= 86_400 + 5_400
    assert starts[2:] == [1, 0]  # it is late already; it has no end
    assert [headers["Cancel-After"] for headers in replicate.posted_with] == ["90m", None, "1m", None]


def test_replicates_list_is_read_back_to_the_jobs_beginning_and_no_further(replicate: ReplicateDouble) -> None:
    provider = ReplicateProvider(TOKEN, url=replicate.url, webhook_url=HOOK, **HOW)
    for number in range(120):
        provider.submit(Submission(f"j{number}-1", asked("wan-video/wan-2.7")))
    before, began = replicate.connections, datetime.now(UTC)
    wanted = asked("wan-video/wan-2.7")._replace(provider_key="j3-1", started_at=began)
    found = provider.find(wanted)
    assert found is not None
    assert (found.id, replicate.connections - before) == ("p4", 2)
    later = wanted._replace(provider_key="never", started_at=began + timedelta(hours=1))
    before = replicate.connections
    assert provider.find(later) is None
    assert replicate.connections - before == 1


def test_among_predictions_with_odd_webhooks_the_own_one_is_found(replicate: ReplicateDouble) -> None:
    provider = ReplicateProvider(TOKEN, url=replicate.url, webhook_url=HOOK, **HOW)
    ours, others = (provider.submit(Submission(key, asked("wan-video/wan-2.7"))) for key in ("j1-1", "j2-1"))
    replicate.jobs[others]["webhook"] = "https://[hooks"
    found = provider.find(asked("wan-video/wan-2.7")._replace(provider_key="j1-1"))
    assert found is not None
    assert found.id == ours


def test_a_list_of_replicates_without_webhooks_leaves_the_job_in_doubt(
    replicate: ReplicateDouble, tmp_path: Path
) -> None:
    replicate.queue, replicate.tells_webhooks = [LOST], False
    with pytest.raises(GenerationUnknown):
        run(ReplicateProvider(TOKEN, url=replicate.url, webhook_url=HOOK, **HOW), asked("wan-video/wan-2.7"), tmp_path)
    assert len(replicate.submitted) == 1


def test_an_account_is_read_page_by_page_back_to_its_first_moment(
    fal: FalDouble, replicate: ReplicateDouble, openai: OpenAIDouble
) -> None:
    now = datetime.now(UTC)
    ages = [timedelta(days=2)] * 150 + [timedelta(minutes=1)] * 210
    for double, fields in (
        (fal, {"endpoint": "fal-ai/veo3.1", "input": {"seed": 7}}),
        (replicate, {"model": "a/b", "version": "hidden", "webhook": None, "input": {}}),
        (openai, {"form": {"prompt": "a cat"}}),
    ):
        jobs = [{"id": f"p{n}", "status": "succeeded", "at": now - age, **fields} for n, age in enumerate(ages)]
        double.jobs = {str(job["id"]): job for job in jobs}
    for provider, double, calls, model in (
        (FalProvider(TOKEN, url=fal.url, **HOW), fal, 1 + 5, "fal-ai/veo3.1"),  # the bill, and what was sent
        (ReplicateProvider(TOKEN, url=replicate.url, **HOW), replicate, 3, "a/b"),
        (OpenAIProvider(openai.url, TOKEN, **HOW), openai, 3, "sora-2"),
    ):
        found = provider.billed(now - timedelta(hours=1), now)
        assert ({str(entry.id).rpartition("/")[2] for entry in found}, len(found)) == (
            {f"p{n}" for n in range(150, 360)},
            210,
        )
        assert double.connections == calls
        assert {entry.model for entry in found} == {model}


def test_an_engine_is_sent_a_form_with_the_image(openai: OpenAIDouble, tmp_path: Path) -> None:
    image = b"\x89PNG a picture"

    def fetch(digest: str, target: Path) -> bool:
        return digest == "e" * 64 and target.write_bytes(image) > 0

    provider = OpenAIProvider(openai.url, TOKEN, **HOW)
    images = NO_IMAGES._replace(fetch=fetch)
    run(provider, asked("wan3", image_sha256="e" * 64, parameters={"fps": 16}), tmp_path, images=images)
    (job,) = openai.jobs.values()
    assert job["form"] == {
        "prompt": "a cat",
        "model": "wan3",
        "seconds": "5",
        "size": "1280x720",
        "fps": "16",
        "input_reference": image,
    }
    with pytest.raises(GenerationRefused) as refused:
        run(provider, asked("wan3", image_sha256="f" * 64), tmp_path, images=images)
    assert marked(refused.value) == snapshot(
        "no input image 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff'"
    )


def test_an_engine_that_answers_a_failed_job_with_its_http_status_is_understood(
    openai: OpenAIDouble, tmp_path: Path
) -> None:
    openai.fails_by_status = True
    openai.end_as("failed")
    with pytest.raises(GenerationFailed, match="out of memory"):
        run(OpenAIProvider(openai.url, TOKEN, **HOW), asked("wan3"), tmp_path)


@pytest.mark.parametrize(
    "progress", [10**400, float("inf"), float("nan"), -(10**400)], ids=lambda value: str(value)[:9]
)
def test_a_job_of_absurd_progress_is_waited_for(openai: OpenAIDouble, tmp_path: Path, progress: float) -> None:
    openai.reads = [(200, {"id": "v1", "status": "in_progress", "progress": progress})]
    assert run(OpenAIProvider(openai.url, TOKEN, **HOW), asked("wan3"), tmp_path).path.exists()
    assert len(openai.submitted) == 1


@pytest.mark.parametrize("created", [10**400, 1e18, float("nan"), None], ids=lambda value: str(value)[:9])
def test_a_list_with_an_absurd_time_is_no_list(openai: OpenAIDouble, created: float | None) -> None:
    entry = {"id": "v1", "created_at": created, "model": "wan3"}
    openai.reads = [(200, {"data": [entry], "has_more": False})]
    with pytest.raises(GenerationUnknown):
        OpenAIProvider(openai.url, TOKEN, **HOW).billed(
            datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
        )


@pytest.mark.parametrize("word", ["pending", "a word of next year"])
def test_a_gateway_with_other_words_is_waited_for(openai: OpenAIDouble, tmp_path: Path, word: str) -> None:
    openai.running_word, openai.looks = word, 4
    assert run(OpenAIProvider(openai.url, TOKEN, **HOW), asked("wan3"), tmp_path, most_silent_seconds=0.0).path.exists()
    assert len(openai.submitted) == 1


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({}, {"resolution": "720p", "aspect_ratio": "16:9"}),
        ({"width": 2160, "height": 3840, "seed": 7}, {"resolution": "4K", "aspect_ratio": "9:16", "seed": 7}),
        ({"audio": False}, {"resolution": "720p", "aspect_ratio": "16:9", "generate_audio": False}),
    ],
)
def test_openrouter_is_asked_in_its_words_and_says_what_a_job_cost(
    openrouter: OpenRouterDouble, tmp_path: Path, changes: dict[str, Any], sent: dict[str, Any]
) -> None:
    provider = OpenRouterProvider(TOKEN, url=openrouter.url, webhook_url=HOOK, **HOW)
    assert run(provider, asked("google/veo-3.1", **changes), tmp_path).cost_microusd == 600_000
    (job,) = openrouter.jobs.values()
    common = {"model": "google/veo-3.1", "prompt": "a cat", "duration": 5, "callback_url": f"{HOOK}?key=j1-1"}
    assert job["input"] == common | sent


@pytest.mark.parametrize("word", ["failed", "cancelled", "expired"])
def test_a_job_of_openrouters_ends_without_a_video_in_three_ways(
    openrouter: OpenRouterDouble, tmp_path: Path, word: str
) -> None:
    openrouter.reads = [(200, {"id": "p1", "status": word, "error": "Job exceeded maximum time to live"})]
    with pytest.raises(GenerationFailed, match="time to live"):
        run(OpenRouterProvider(TOKEN, url=openrouter.url, **HOW), asked("google/veo-3.1"), tmp_path)


def test_openrouters_fee_for_a_job_on_a_key_of_our_own_is_not_what_it_cost(
    openrouter: OpenRouterDouble, tmp_path: Path
) -> None:
    openrouter.is_byok = True
    provider = OpenRouterProvider(TOKEN, url=openrouter.url, **HOW)
    assert run(provider, asked("google/veo-3.1"), tmp_path).cost_microusd is None


def test_openrouter_is_sent_an_image_as_the_first_frame_and_no_negative_prompt(
    openrouter: OpenRouterDouble, tmp_path: Path
) -> None:
    provider = OpenRouterProvider(TOKEN, url=openrouter.url, **HOW)
    images = NO_IMAGES._replace(url=lambda digest: f"https://images.example/{digest}")
    run(provider, asked("google/veo-3.1", image_sha256="e" * 64), tmp_path, images=images)
    (job,) = openrouter.jobs.values()
    (frame,) = job["input"]["frame_images"]
    assert (frame["image_url"]["url"], frame["frame_type"]) == (f"https://images.example/{'e' * 64}", "first_frame")
    with pytest.raises(GenerationRefused):
        run(provider, asked("google/veo-3.1", negative_prompt="rain"), tmp_path)
    assert len(openrouter.submitted) == 1


def test_runways_videos_are_fetched_from_its_documented_host_without_a_setting() -> None:
    calls = RunwayProvider(TOKEN)._calls
    assert calls._is_listed("https://dnznrvs05pmza.cloudfront.net/video.mp4?_jwt=x")
    assert not calls._is_listed("https://cloudfront.net.example/video.mp4")
