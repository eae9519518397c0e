"""Requirements for every provider: a job is paid once, lost answers stay in doubt, and answers are not trusted."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.adapters.providers.contract import Made, Order
from reelkeeper.errors import (
    AccountLocked,
    ContentRefused,
    GenerationCancelled,
    GenerationFailed,
    GenerationLost,
    GenerationRefused,
    GenerationUnknown,
    ProviderBusy,
    ResultUnreadable,
)
from tests.adapters.providers.formats import FORMATS, Format
from tests.adapters.providers.notes import Notes
from tests.doubles.vendor import CUT, FAULT, LOST, SLOW, Next, Vendor
from tests.marks import marked

Make = Callable[..., Made]


EACH = [name for name in FORMATS if "," not in name]  # once, as its guarantee is best
IN_DOUBT = pytest.mark.parametrize("format_", FORMATS, indirect=True)  # with each guarantee


@pytest.fixture(params=EACH)
def format_(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def vendor(format_: Format) -> Iterator[Vendor]:
    with format_.double().serving() as serving:
        yield serving


@pytest.fixture
def make(format_: Format, vendor: Vendor, tmp_path: Path) -> Make:
    def made(notes: Notes, order: Order | None = None, silent: float = 60.0, **how: object) -> Made:
        generator = RemoteGenerator(
            format_.connect(vendor, **how), model=format_.model, poll_seconds=0.005, most_silent_seconds=silent
        )
        return generator.make(order or notes.taken_up(), tmp_path / "made.mp4", notes)

    return made


def test_a_video_is_made_with_one_request(vendor: Vendor, make: Make) -> None:
    vendor.looks, notes = 3, Notes()
    assert make(notes).path.read_bytes() == b"a video"
    assert len(vendor.submitted) == 1
    assert notes.job_id


@IN_DOUBT
@pytest.mark.parametrize("fault", [LOST, CUT, FAULT])
def test_a_job_whose_answer_was_lost_is_paid_once(format_: Format, vendor: Vendor, make: Make, fault: str) -> None:
    vendor.queue, notes = [fault], Notes()
    if format_.finds_lost:
        make(notes)
    else:
        for was_parked in (False, False, True, True):
            with pytest.raises(GenerationUnknown):
                make(notes, notes.taken_up(was_parked=was_parked))
    assert len(vendor.submitted) == 1


@IN_DOUBT
def test_an_answer_that_is_too_slow_is_a_lost_one(format_: Format, vendor: Vendor, make: Make) -> None:
    vendor.queue, notes = [SLOW], Notes()
    with suppress(GenerationUnknown):  # it is found at once, or a moment later
        make(notes, timeout_seconds=0.3)
    while not vendor.submitted:
        time.sleep(0.01)
    if format_.finds_lost:
        make(notes, notes.taken_up(was_parked=True))
    assert len(vendor.submitted) == 1


@IN_DOUBT
def test_a_job_that_is_listed_late_is_parked_and_found(format_: Format, vendor: Vendor, make: Make) -> None:
    vendor.queue, vendor.hides_jobs, notes = [LOST], True, Notes()
    for _ in range(2):
        with pytest.raises(GenerationUnknown):
            make(notes)
    vendor.hides_jobs = False
    if format_.finds_lost:
        make(notes, notes.taken_up(was_parked=True))
    assert len(vendor.submitted) == 1


def test_a_job_whose_image_is_not_stored_is_refused_and_not_made_without_it(vendor: Vendor, make: Make) -> None:
    order = Notes().taken_up()
    with pytest.raises(GenerationRefused) as refused:
        make(Notes(), order._replace(request={**order.request, "image_sha256": "e" * 64}))
    assert marked(refused.value) == snapshot(
        "no input image 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee'"
    )
    assert vendor.submitted == []


@pytest.mark.parametrize("status", [408, 409, 499, 500, 502, 503, 504])
def test_an_error_leaves_a_new_job_in_doubt(vendor: Vendor, make: Make, status: int) -> None:
    vendor.queue, notes = [(status, None)], Notes()
    for _ in range(2):
        with pytest.raises(GenerationUnknown):
            make(notes)
    assert vendor.submitted == []


@IN_DOUBT
def test_another_worker_continues_the_job_that_was_sent(vendor: Vendor, make: Make) -> None:
    vendor.looks, notes = 50, Notes()
    notes.stop = RuntimeError("the worker dies")
    with pytest.raises(RuntimeError):
        make(notes)
    notes.stop, vendor.looks = None, 1
    assert make(notes).path.exists()
    assert len(vendor.submitted) == 1


@pytest.mark.parametrize(("headers", "seconds"), [({}, 30.0), ({"Retry-After": "7"}, 7.0)])
def test_a_provider_that_is_busy_says_for_how_long(
    vendor: Vendor, make: Make, headers: dict[str, str], seconds: float
) -> None:
    vendor.queue = [(429, None, headers)]
    with pytest.raises(ProviderBusy) as busy:
        make(Notes())
    assert busy.value.seconds == seconds
    assert vendor.submitted == []


def test_a_refusal_is_certain_and_in_the_providers_words(vendor: Vendor, make: Make) -> None:
    for status in (400, 404, 422):
        vendor.queue = [vendor.refusal(status, "a size of 3 by 3")]
        with pytest.raises(GenerationRefused, match="3 by 3"):
            make(Notes())
    blocked = "blocked by our content policy"
    vendor.queue = [vendor.refusal(400, blocked)]
    with pytest.raises(ContentRefused, match=blocked):
        make(Notes())
    assert vendor.submitted == []


@pytest.mark.parametrize("answer", [(401, "No such key"), (402, "No credit"), (403, "Account is locked")])
def test_an_account_that_is_let_in_no_more_is_no_fault_of_the_job(
    vendor: Vendor, make: Make, answer: tuple[int, str]
) -> None:
    vendor.queue = [vendor.refusal(*answer)]
    with pytest.raises(AccountLocked, match=answer[1]):
        make(Notes())


def test_how_a_job_ends_says_what_to_do_next(vendor: Vendor, make: Make) -> None:
    vendor.end_as("failed")
    with pytest.raises(GenerationFailed):
        make(Notes())
    vendor.end_as("moderated")
    with pytest.raises(ContentRefused, match=r"moderat|flagged"):
        make(Notes())


@pytest.mark.parametrize(
    "answer",
    [(502, None), (500, b"<html>"), (200, {"id": "p1", "status": "a new word"}), (200, b"[" * 100_000)],
    ids=["no answer", "a page", "a new word", "nested too deeply"],
)
def test_a_fault_on_the_way_to_an_answer_says_nothing_about_the_job(vendor: Vendor, make: Make, answer: Next) -> None:
    vendor.reads, notes = [answer] * 3, Notes()
    assert make(notes).path.exists()
    assert len(vendor.submitted) == 1


def test_a_provider_that_is_down_leaves_its_jobs_in_doubt(vendor: Vendor, make: Make) -> None:
    notes = Notes()
    make(notes)
    vendor.is_down = True
    with pytest.raises(GenerationUnknown, match="503"):
        make(notes, silent=0.0)
    assert len(vendor.submitted) == 1


def test_a_video_that_has_expired_is_not_made_again(format_: Format, vendor: Vendor, make: Make) -> None:
    """Where jobs are billed, only the vendor's word that it is deleted ends one; a missing file may come back."""
    vendor.has_expired, notes = True, Notes()
    says_so = format_.double.__name__ in ("ProviderDouble", "ComfyUIDouble", "ReplicateDouble")
    with pytest.raises(GenerationLost if says_so else ResultUnreadable):
        make(notes)
    assert len(vendor.submitted) == 1


@pytest.mark.parametrize("planned", [CUT, (404, None), (503, None), (403, None)])
def test_a_video_that_is_not_received_is_not_lost(format_: Format, vendor: Vendor, make: Make, planned: Next) -> None:
    vendor.files, notes = [planned] * 3, Notes()
    with pytest.raises((GenerationLost, ResultUnreadable)) as problem:
        make(notes)
    assert isinstance(problem.value, ResultUnreadable) or not format_.connect(vendor).guarantee.bills
    vendor.files = []
    assert make(notes).path.read_bytes() == b"a video"
    assert len(vendor.submitted) == 1


def test_a_job_that_is_not_over_at_its_deadline_is_cancelled_and_one_that_is_made_just_then_is_fetched(
    format_: Format, vendor: Vendor, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.looks, notes = 10**6, Notes()
    late = Notes().taken_up()._replace(deadline=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(GenerationUnknown):
        make(notes, late)
    assert vendor.cancelled == ["p1"] * format_.cancels
    vendor.looks, notes = 2, Notes()
    monkeypatch.setattr(vendor, "cancel", vendor.look)  # it comes too late
    assert make(notes, late).path.exists()
    assert len(vendor.submitted) == 2


def test_a_job_is_named_whatever_its_first_status_is(vendor: Vendor, make: Make) -> None:
    """A vendor's double answers a new job with another word, as a new version of a gateway would."""
    vendor.reads, notes = [(200, {"id": "p1", "status": "dreaming"})] * 2, Notes()
    vendor.queue = [(200, {"id": "p1", "request_id": "p1", "prompt_id": "p1", "status": "dreaming"})]
    notes.stop = RuntimeError("it is named")
    with pytest.raises(RuntimeError):
        make(notes)
    assert str(notes.job_id).rpartition("/")[2] == "p1"


def test_a_cancelled_job_is_cancelled_at_its_provider(format_: Format, vendor: Vendor, make: Make) -> None:
    vendor.looks, notes = 50, Notes()
    notes.stop = GenerationCancelled("not wanted")
    with pytest.raises(GenerationCancelled):
        make(notes)
    assert vendor.cancelled == ["p1"] * format_.cancels


def test_the_key_goes_to_the_provider_alone(format_: Format, vendor: Vendor, make: Make) -> None:
    make(Notes())
    away = [token for token in vendor.tokens if token is None]
    has_files_itself = format_.double.__name__ in (
        "ProviderDouble",
        "OpenAIDouble",
        "OpenRouterDouble",
        "ComfyUIDouble",
    )
    assert len(away) == (0 if has_files_itself else 1)
    assert len({*vendor.tokens} - {None}) == 1


def test_no_request_is_sent_to_an_address_that_is_not_public(vendor: Vendor, make: Make) -> None:
    with pytest.raises(ProviderBusy, match="https"):
        make(Notes(), allow_private=False)
    assert vendor.connections == 0
