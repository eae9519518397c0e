"""Deletions at vendors: only what a vendor documents as one counts, and files expire after they may be fetched."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from reelkeeper.adapters.providers.contract import Order, Provider, Submission
from reelkeeper.adapters.providers.fal import FalProvider
from reelkeeper.errors import GenerationUnknown
from reelkeeper.model.jobs import VendorErasure
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.doubles.fal import FalDouble
from tests.doubles.vendor import LOST, TOKEN, Next, Vendor

HAVE_A_CALL = ["http", "fal", "runway", "openai"]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vendor(name: str) -> Iterator[Vendor]:
    with FORMATS[name].double().serving() as serving:
        yield serving


def sent(provider: Provider, name: str) -> str:
    """Send a job, and look until it is over."""
    order = ORDER._replace(model=FORMATS[name].model)
    job_id = provider.submit(Submission("j1-1", order))
    standing = provider.look(job_id)
    assert standing
    assert standing.is_over
    return job_id


@pytest.mark.parametrize("name", HAVE_A_CALL, indirect=True)
@pytest.mark.parametrize("answer", [(401, None), (403, None), (409, None), (429, None), (500, None), (302, "/"), LOST])
def test_an_answer_that_is_no_deletion_is_asked_for_again(name: str, vendor: Vendor, answer: Next) -> None:
    provider = FORMATS[name].connect(vendor)
    job_id = sent(provider, name)
    if answer == LOST:
        vendor.is_dead = True
    vendor.erasures = [answer]
    with pytest.raises(GenerationUnknown):
        provider.erase(job_id)
    vendor.is_dead, vendor.erasures = False, []
    assert [provider.erase(job_id) for _ in range(2)] == [VendorErasure.DELETED, VendorErasure.ABSENT]
    assert vendor.erased == ["p1"]


@pytest.mark.parametrize("name", HAVE_A_CALL, indirect=True)
@pytest.mark.parametrize("status", [405, 501])
def test_a_gateway_without_the_call_keeps_it(name: str, vendor: Vendor, status: int) -> None:
    provider = FORMATS[name].connect(vendor)
    job_id = sent(provider, name)
    vendor.erasures = [(status, None)]
    assert provider.erase(job_id) is VendorErasure.KEPT


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fal", {"detail": "accepted"}),
        ("fal", {"cdn_delete_results": [{"link": "https://v3.fal.media/a.mp4", "exception": "AccessDenied"}]}),
        ("openai", {"id": "p1", "deleted": False}),
        ("openai", None),
    ],
    indirect=["name"],
)
def test_a_success_that_does_not_say_that_it_deleted_is_asked_for_again(
    name: str, vendor: Vendor, answer: object
) -> None:
    provider = FORMATS[name].connect(vendor)
    job_id = sent(provider, name)
    vendor.erasures = [(200, answer)]
    with pytest.raises(GenerationUnknown):
        provider.erase(job_id)


@pytest.mark.parametrize("name", ["openai"], indirect=True)
def test_an_engine_says_it_by_the_jobs_status(name: str, vendor: Vendor) -> None:
    provider = FORMATS[name].connect(vendor)
    job_id = sent(provider, name)
    vendor.erasures = [(200, {"id": job_id, "object": "video", "status": "deleted"})]
    assert provider.erase(job_id) is VendorErasure.DELETED


@pytest.mark.parametrize("name", ["comfyui"], indirect=True)
def test_a_run_that_stays_in_comfyuis_history_is_asked_for_again(name: str, vendor: Vendor) -> None:
    provider = FORMATS[name].connect(vendor)
    job_id = sent(provider, name)
    vendor.erasures = [(500, None)]
    with pytest.raises(GenerationUnknown):
        provider.erase(job_id)
    assert provider.erase(job_id) is VendorErasure.PARTLY
    assert vendor.jobs == {}


@pytest.mark.parametrize("days_left", [1, 7])
def test_fals_files_expire_no_sooner_than_they_may_be_fetched(days_left: int) -> None:
    """Until the deadline by itself; by a person's retry, for the thirty days that fal keeps the result's address."""
    deadline = datetime.now(UTC) + timedelta(days=days_left)
    order: Order = ORDER._replace(model="fal-ai/veo3.1", deadline=deadline)
    with FalDouble().serving() as fal:
        FalProvider(TOKEN, url=fal.url, allow_private=True).submit(Submission("j1-1", order))
        (headers,) = fal.posted_with
    wanted = json.loads(headers["X-Fal-Object-Lifecycle-Preference"])
    assert wanted.keys() == {"expiration_duration_seconds"}
    assert 0 <= (days_left + 30) * 86_400 - wanted["expiration_duration_seconds"] < 60
