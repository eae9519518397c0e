"""A vendor's webhook is accepted if it is signed, recent, and at the URL that we gave for the job."""

import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import vendor_calls
from reelkeeper.adapters.providers.contract import Submission
from reelkeeper.adapters.providers.inputs import CODE, KEY, code_of
from reelkeeper.errors import SignatureRefused
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.doubles.fal import FalDouble
from tests.doubles.replicate import SIGNING_SECRET
from tests.doubles.vendor import Call, Job, Vendor
from tests.marks import marked

Verify = Callable[..., vendor_calls.Call]


@pytest.fixture(params=["fal", "replicate", "openrouter"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vendor(name: str) -> Iterator[Vendor]:
    vendor_calls._fetched.clear()  # a double before this one may have had its port, and other keys
    with FORMATS[name].double().serving() as serving:
        yield serving


@pytest.fixture
def job(name: str, vendor: Vendor) -> Job:
    FORMATS[name].connect(vendor).submit(Submission("j1-1", ORDER._replace(model=FORMATS[name].model)))
    return vendor.jobs["p1"]


@pytest.fixture
def verify(name: str, vendor: Vendor) -> Verify:
    def verified(call: Call, now: float | None = None, **changes: str) -> vendor_calls.Call:
        query = dict(parse_qsl(call.query)) | changes
        headers = {key.lower(): value for key, value in call.headers.items()}
        at = time.time() if now is None else now
        return vendor_calls.verify(
            name, SIGNING_SECRET, query, headers, call.body, at, url=vendor.url, allow_private=True
        )

    return verified


def test_a_signed_call_names_our_key_and_the_vendors_job(vendor: Vendor, job: Job, verify: Verify) -> None:
    assert verify(vendor.call(job)) == ("j1-1", "p1")
    assert verify(vendor.call(job)) == ("j1-1", "p1"), "played again, it says the same"


def test_a_call_at_an_address_that_we_did_not_give_is_refused(vendor: Vendor, job: Job, verify: Verify) -> None:
    for changes in ({KEY: "j2-1"}, {CODE: ""}, {CODE: code_of("j1-1", "another secret")}, {KEY: ""}):
        with pytest.raises(SignatureRefused) as refused:
            verify(vendor.call(job), **changes)
        assert marked(refused.value) == snapshot("the call is not at a URL that was given to the provider")


def test_a_call_of_another_time_is_refused(vendor: Vendor, job: Job, verify: Verify) -> None:
    now = 1_764_072_000.0
    assert verify(vendor.call(job, now), now + 299).job_id == "p1"
    for later in (301.0, -301.0):
        with pytest.raises(SignatureRefused, match="300 s"):
            verify(vendor.call(job, now), now + later)


@pytest.mark.parametrize("name", ["fal", "replicate"], indirect=True)
def test_a_forged_or_changed_callback_is_refused(vendor: Vendor, job: Job, verify: Verify) -> None:
    call = vendor.call(job)
    name, signature = list(call.headers.items())[-1]
    stamp, at = next((name, value) for name, value in call.headers.items() if name.lower().endswith("timestamp"))
    for changed in (
        call._replace(body=call.body.replace(b"p1", b"p2")),
        call._replace(headers=call.headers | {stamp: str(int(at) + 1)}),
        call._replace(headers=call.headers | {name: signature[:-6] + "000000"}),
        call._replace(headers=call.headers | {name: "no signature"}),
        call._replace(headers=call.headers | {name: ""}),
        call._replace(headers=call.headers | {stamp: "now"}),
    ):
        with pytest.raises(SignatureRefused, match=r"not signed|300 s"):
            verify(changed)
    with pytest.raises(SignatureRefused, match="65,536"):
        verify(call._replace(body=b" " * 65_537))


@pytest.mark.parametrize("name", ["openrouter"], indirect=True)
def test_a_forged_or_changed_callback_of_openrouters_is_refused(vendor: Vendor, job: Job, verify: Verify) -> None:
    call = vendor.call(job)
    signed = call.headers["X-OpenRouter-Signature"]
    at = signed.partition(",")[0]
    for header in (signed[:-6] + "000000", signed.replace(at, f"{at}1"), signed.partition("v1")[0], "", "t=now,v1="):
        with pytest.raises(SignatureRefused, match=r"not signed|300 s"):
            verify(call._replace(headers={"X-OpenRouter-Signature": header}))
    with pytest.raises(SignatureRefused) as refused:
        verify(call._replace(body=call.body.replace(b"p1", b"p2")))
    assert marked(refused.value) == snapshot(
        "the call is not signed with the secret that REELKEEPER_OPENROUTER_WEBHOOK_SECRET holds"
    )


def test_without_fals_keys_no_call_of_fals_is_believed() -> None:
    vendor_calls._fetched.clear()
    with FalDouble().serving() as double:
        FORMATS["fal"].connect(double).submit(Submission("j1-1", ORDER._replace(model="fal-ai/veo3.1")))
        call, url = double.call(double.jobs["p1"]), double.url
    headers = {key.lower(): value for key, value in call.headers.items()}
    with pytest.raises(SignatureRefused) as refused:
        vendor_calls.verify(
            "fal",
            SIGNING_SECRET,
            dict(parse_qsl(call.query)),
            headers,
            call.body,
            time.time(),
            url=url,
            allow_private=True,
        )
    assert str(refused.value).partition(": ")[0] == snapshot("the provider's keys cannot be read")
