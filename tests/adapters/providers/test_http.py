"""A provider is paid once for a video, whichever of its answers are lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import HttpProvider, RemoteGenerator
from reelkeeper.adapters.providers.contract import NO_IMAGES, Guarantee, Made, Order, Way
from reelkeeper.errors import (
    AccountLocked,
    ContentRefused,
    GenerationFailed,
    GenerationLost,
    GenerationRefused,
    GenerationUnknown,
    ProviderBusy,
    ProviderFull,
    ResultUnreadable,
)
from tests.adapters.providers.notes import ORDER, Notes
from tests.doubles.provider import LOST, TOKEN, Next, ProviderDouble
from tests.marks import marked


@pytest.fixture
def double() -> Iterator[ProviderDouble]:
    with ProviderDouble().serving() as serving:
        yield serving


@pytest.fixture
def make(double: ProviderDouble, tmp_path: Path) -> Callable[..., Made]:
    def made(order: Order, notes: Notes, most_bytes: int = 10**6) -> Made:
        provider = HttpProvider(double.url, TOKEN, allow_private=True, timeout_seconds=60.0)
        generator = RemoteGenerator(provider, poll_seconds=0.01, most_silent_seconds=0.1, most_bytes=most_bytes)
        return generator.make(order, tmp_path / "made.mp4", notes)

    return made


def test_a_video_is_made_and_fetched_with_its_cost(double: ProviderDouble, make: Callable[..., Made]) -> None:
    double.looks = 3
    notes = Notes()
    made = make(ORDER, notes)
    assert made.path.read_bytes() == b"a video"
    assert made.cost_microusd == 12_346  # rounded up
    assert notes.fractions[-1] == 0.5
    assert set(double.tokens) == {f"Bearer {TOKEN}"}
    (sent,) = double.jobs.values()
    assert (sent["key"], sent["model"], sent["request"]) == ("j1-1", ORDER.model, dict(ORDER.request))


@pytest.mark.parametrize(
    "answer",
    [
        *(LOST, (200, {"no": "name"}), (200, b"[" * 100_000), (302, "/else")),
        *((status, None) for status in (408, 409, 500, 503, 504)),
    ],
    ids=lambda answer: str(answer)[:20],
)
def test_a_lost_answer_is_looked_up_and_nothing_is_sent_again(
    double: ProviderDouble, make: Callable[..., Made], answer: Next
) -> None:
    double.queue = [answer]
    notes = Notes()
    if answer == LOST:
        assert make(ORDER, notes).path.exists()
        assert double.sent_twice() == []
        assert len(double.submitted) == 1
    else:  # this one was not taken, but nobody can know
        with pytest.raises(GenerationUnknown):
            make(ORDER, notes)
        with pytest.raises(GenerationUnknown) as unknown:
            make(notes.taken_up(), notes)
        assert marked(unknown.value) == snapshot(
            "the provider does not know it yet; the request may still be under way"
        )
        assert double.submitted == []
        assert make(notes.taken_up(was_parked=True), notes).path.exists()
        assert double.submitted == [notes.key]


@pytest.mark.parametrize("shown", [{}, {"key": "j0-1"}])
def test_a_list_of_other_jobs_gives_a_lost_job_no_video_and_is_no_proof(
    double: ProviderDouble, make: Callable[..., Made], shown: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ignores a condition which it does not know lists the jobs of everybody."""
    all_jobs = [{"id": f"p{n}", "status": "failed", **shown} for n in range(2)]
    monkeypatch.setattr(
        double, "route", lambda request: (200, {"jobs": all_jobs} if request.path == "/jobs" else all_jobs[0])
    )
    notes = Notes()
    notes.announce()
    for was_parked in (False, True):
        with pytest.raises(GenerationUnknown) as refused:
            make(notes.taken_up(was_parked=was_parked), notes)
        assert marked(refused.value) == snapshot(
            "the provider's answer lists jobs of other keys, or several without a key"
        )
    assert (double.submitted, notes.job_id) == ([], None)


def test_a_worker_that_must_stop_sends_nothing(double: ProviderDouble, make: Callable[..., Made]) -> None:
    notes = Notes()
    notes.stop, notes.stops_early = RuntimeError("it was asleep for a minute"), True
    with pytest.raises(RuntimeError):
        make(ORDER, notes)
    assert double.submitted == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, {"error": "nudity"}), GenerationRefused),
        ((422, None), GenerationRefused),
        ((429, None), ProviderBusy),
        ((402, {"error": "nudity: unpaid"}), AccountLocked),
    ],
)
def test_a_job_that_a_provider_does_not_accept_is_not_in_doubt(
    double: ProviderDouble, make: Callable[..., Made], answer: tuple[int, object], error: type[Exception]
) -> None:
    double.queue = [answer]
    with pytest.raises(error, match="nudity" if answer[1] else r"\d"):
        make(ORDER, Notes())
    assert double.submitted == []


@pytest.mark.parametrize(
    ("status", "told", "is_rate"),
    [
        (429, None, None),
        (429, "try later", None),
        (429, "Request was throttled. Your rate limit resets in ~30s.", True),
        (429, "Throttling.RateQuota", True),
        (429, "60 requests per minute are allowed", True),
        (429, "Too many requests", None),
        (429, "you have 5 tasks in progress", False),
        (400, "Too many concurrent requests", False),
        (403, "the concurrency limit of this account is reached", False),
        (422, "too many running generations", False),
        (403, "Rate limit reached", True),
    ],
)
def test_a_refusal_of_too_many_holds_for_all_jobs_and_says_what_it_is_about(
    double: ProviderDouble, make: Callable[..., Made], status: int, told: str | None, is_rate: bool | None
) -> None:
    double.queue = [(status, told and {"error": told}, {"Retry-After": "7"})]
    with pytest.raises(ProviderFull) as full:
        make(ORDER, Notes())
    assert (full.value.seconds, full.value.is_rate) == (7, is_rate)
    double.queue = [(status, {"error": "too many fingers"})]
    with pytest.raises(ProviderFull if status == 429 else GenerationRefused):
        make(ORDER, Notes())


@pytest.mark.parametrize(
    ("ends_as", "error"),
    [
        ({"status": "failed", "error": "out of memory"}, GenerationFailed),
        ({"status": "refused", "error": "a face"}, GenerationRefused),
        ({"status": "cancelled"}, GenerationFailed),
        ({"status": "moderated", "error": "a face"}, ContentRefused),
        ({"status": "succeeded"}, GenerationLost),  # and no video
        ({"status": "succeeded", "video_url": "/gone.mp4"}, GenerationLost),
    ],
)
def test_how_a_job_ends_says_what_to_do_next(
    double: ProviderDouble, make: Callable[..., Made], ends_as: dict[str, Any], error: type[Exception]
) -> None:
    double.ends_as = ends_as
    with pytest.raises(error):
        make(ORDER, Notes())


@pytest.mark.parametrize("cost", [None, "free", "-1", "NaN", "Infinity", "1e999999", True, []])
def test_a_cost_that_is_no_sum_of_money_is_not_known(
    double: ProviderDouble, make: Callable[..., Made], cost: object
) -> None:
    double.ends_as |= {"cost_usd": cost}
    assert make(ORDER, Notes()).cost_microusd is None


@pytest.mark.parametrize("cost", ["10001", "1e9"])
def test_an_absurd_cost_is_told_as_far_as_it_can_be_kept(
    double: ProviderDouble, make: Callable[..., Made], cost: str
) -> None:
    double.ends_as |= {"cost_usd": cost}
    assert make(ORDER, Notes()).cost_microusd == 10**10


def test_a_job_that_its_provider_has_forgotten_fails_once_it_has_been_asked_after_twice(
    double: ProviderDouble, make: Callable[..., Made]
) -> None:
    notes = Notes()
    make(ORDER, notes)
    double.jobs.clear()
    with pytest.raises(GenerationUnknown):
        make(notes.taken_up(), notes)
    with pytest.raises(GenerationFailed):
        make(notes.taken_up(was_parked=True), notes)


def test_the_token_is_sent_to_the_provider_only(double: ProviderDouble, make: Callable[..., Made]) -> None:
    with ProviderDouble(b"elsewhere").serving() as store:
        double.ends_as |= {"video_url": f"{store.url}/video.mp4"}
        assert make(ORDER, Notes()).path.read_bytes() == b"elsewhere"
        assert store.tokens == [None]


def test_a_video_that_is_too_long_is_not_stored_whole(double: ProviderDouble, make: Callable[..., Made]) -> None:
    double.video = b"x" * 1_000_000
    with pytest.raises(GenerationUnknown):
        make(ORDER, Notes(), most_bytes=100_000)


def test_an_address_that_is_not_public_is_not_asked(double: ProviderDouble, tmp_path: Path) -> None:
    provider = HttpProvider(double.url, TOKEN)
    with pytest.raises(ProviderBusy, match="https"):
        RemoteGenerator(provider).make(ORDER, tmp_path / "made.mp4", Notes())
    assert double.connections == 0


def test_the_provider_gets_the_url_of_the_image(double: ProviderDouble, tmp_path: Path) -> None:
    provider = HttpProvider(double.url, TOKEN, allow_private=True, timeout_seconds=60.0)
    generator = RemoteGenerator(
        provider, images=NO_IMAGES._replace(url=lambda digest: f"https://images.example/{digest}"), poll_seconds=0.01
    )
    order = ORDER._replace(request={**ORDER.request, "image_sha256": "e" * 64})
    generator.make(order, tmp_path / "made.mp4", Notes())
    (job,) = double.jobs.values()
    assert job["image_url"] == f"https://images.example/{'e' * 64}"


class Unasked(HttpProvider):
    """The same provider, of which it is not known that it can be asked for a lost job."""

    guarantee = Guarantee()


class Listed(HttpProvider):
    """The same provider, whose list may lack a job that it has."""

    guarantee = Guarantee((Way.LISTING,))


def other(kind: type[HttpProvider], double: ProviderDouble, **how: Any) -> RemoteGenerator:  # noqa: ANN401  of Transport
    return RemoteGenerator(kind(double.url, TOKEN, allow_private=True, **how), poll_seconds=0.01)


@pytest.mark.parametrize("kind", [Unasked, Listed])
def test_without_proof_nothing_in_doubt_is_ever_sent_again(
    double: ProviderDouble, tmp_path: Path, kind: type[HttpProvider]
) -> None:
    notes, generator = Notes(), other(kind, double)
    double.queue, double.hides_jobs = [LOST], True
    for _ in range(3):
        with pytest.raises(GenerationUnknown):
            generator.make(notes.taken_up(was_parked=notes.key is not None), tmp_path / "made.mp4", notes)
    assert double.submitted == ["j1-1"]


def test_a_paid_job_that_its_provider_does_not_find_stays_in_doubt(double: ProviderDouble, tmp_path: Path) -> None:
    notes, generator = Notes(), other(Listed, double)
    generator.make(ORDER, tmp_path / "made.mp4", notes)
    double.jobs.clear()
    for _ in range(3):
        with pytest.raises(GenerationUnknown):
            generator.make(notes.taken_up(was_parked=True), tmp_path / "made.mp4", notes)
    assert len(double.submitted) == 1


def test_a_video_is_fetched_from_listed_hosts_alone(double: ProviderDouble, tmp_path: Path) -> None:
    with ProviderDouble(b"elsewhere").serving() as store:
        double.ends_as |= {"video_url": f"{store.url}/video.mp4"}
        with pytest.raises(GenerationUnknown) as refused:
            other(HttpProvider, double, hosts=("example.com",)).make(ORDER, tmp_path / "made.mp4", Notes())
        assert marked(refused.value, URL=store.url) == snapshot(
            "the video is at '127.0.0.1', not a host of the provider. To allow it: REELKEEPER_GENERATOR_HOSTS: URL/video.mp4"
        )
        assert store.connections == 0
        made = other(HttpProvider, double, hosts=("0.0.1",)).make(ORDER, tmp_path / "made.mp4", Notes())
        assert made.path.read_bytes() == b"elsewhere"


@pytest.mark.parametrize(
    "address", ["https://[video", "https://127.0.0.1:1/\ud800\0.mp4", "https://xn--a/made.mp4"], ids=ascii
)
def test_a_video_at_no_address_is_asked_after_again_and_the_store_takes_its_error(
    double: ProviderDouble, make: Callable[..., Made], address: str
) -> None:
    double.ends_as |= {"video_url": address}
    with pytest.raises(ResultUnreadable) as unread:
        make(ORDER, Notes())
    assert "\0" not in str(unread.value).encode().decode()


def test_a_provider_that_is_not_reached_is_tried_again(tmp_path: Path) -> None:
    with ProviderDouble().serving() as gone:
        generator = other(HttpProvider, gone)
    with pytest.raises(ProviderBusy) as refused:
        generator.make(ORDER, tmp_path / "made.mp4", Notes())
    assert str(refused.value).partition(": ")[0] == snapshot("the provider could not be reached")
