"""A provider's webhook must be signed, and only prompts a look at the job."""

import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from reelkeeper.adapters.providers import vendor_calls
from reelkeeper.adapters.providers.contract import Submission
from reelkeeper.adapters.providers.webhook import HEADER, sign
from reelkeeper.operations.jobs.claim import announce, claim, note_sent, park
from reelkeeper.rules.billing.catalogue import ModelEntry
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import settings
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.api.answers import problem
from tests.doubles.replicate import SIGNING_SECRET
from tests.doubles.vendor import TOKEN
from tests.faults.world import World
from tests.operations.queue import enqueue, find, row
from tests.policies import put_in_force

PATH = "/hooks/generator"  # the address that every vendor had in earlier versions
SECRET, BODY = "a secret that both know", b'{"id": "p1", "status": "succeeded"}'


@pytest.fixture
def caller(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("REELKEEPER_HTTP_WEBHOOK_SECRET", SECRET)
    settings.cache_clear()
    with TestClient(app) as client:
        yield client
    settings.cache_clear()


def signed(secret: str = SECRET, body: bytes = BODY) -> dict[str, str]:
    return {HEADER: sign(secret, body, int(time.time()))}


@pytest.mark.parametrize("path", [PATH, "/hooks/http"])
def test_a_callback_makes_a_parked_job_due_at_once(caller: TestClient, world: World, path: str) -> None:
    engine = world.workspace.engine
    enqueue(engine, row("j"))
    (mine,) = claim(engine, "w", [None], limit=1)
    park(engine, note_sent(engine, announce(engine, mine, "http"), "p1"), "no answer")
    assert claim(engine, "w", [None], limit=1) == []
    assert caller.post(path, content=BODY, headers=signed()).status_code == 204
    (again,) = claim(engine, "w", [None], limit=1)
    assert (again.id, again.was_parked, again.provider_job_id) == ("j", True, "p1")


def test_a_call_about_a_job_that_is_not_known_is_taken_and_means_nothing(caller: TestClient) -> None:
    body = b'{"id": "another"}'
    assert caller.post(PATH, content=body, headers=signed(body=body)).status_code == 204


def test_a_call_that_is_not_signed_with_the_secret_is_refused(caller: TestClient) -> None:
    for headers in ({}, signed("another secret"), signed(body=b"{}")):
        problem(caller.post(PATH, content=BODY, headers=headers), 401)
    problem(caller.post(PATH, content=b"x" * 10**7, headers=signed()), 413)


@pytest.mark.parametrize("path", ["/hooks/VENDOR", PATH])  # of jobs in flight at an upgrade
@pytest.mark.parametrize(
    ("vendor", "model"), [("fal", "local"), ("fal", "veo"), ("replicate", "veo"), ("openrouter", "veo")]
)
def test_a_vendors_callback_identifies_a_job_whose_answer_was_lost(
    app: FastAPI, world: World, monkeypatch: pytest.MonkeyPatch, vendor: str, model: str, path: str
) -> None:
    path, key = path.replace("VENDOR", vendor), f"{vendor.upper()}_WEBHOOK_SECRET"
    engine, format_ = world.workspace.engine, FORMATS[vendor]
    put_in_force(engine, book=PriceBook(models=(ModelEntry(model="veo", provider="fal", vendor_model=format_.model),)))
    enqueue(engine, *(row(name, model=model, policy_version=1) for name in ("j", "another")))
    first, second = claim(engine, "w", [None, None], limit=2)
    with format_.double().serving() as double:
        for name, value in {
            "GENERATOR": vendor,
            f"{vendor.upper()}_TOKEN": TOKEN,
            f"{vendor.upper()}_URL": double.url,
            "RUNWAY_TOKEN": TOKEN,  # another vendor beside it
            "HTTP_WEBHOOK_SECRET": SECRET,
            "GENERATOR_MODEL": "fal-ai/ltx-2"
            if model == "veo"
            else format_.model,  # which makes nothing of the catalogue
            key: SIGNING_SECRET,
            "ALLOW_PRIVATE_ADDRESSES": "true",
        }.items():
            monkeypatch.setenv(f"REELKEEPER_{name}", value)
        settings.cache_clear()
        vendor_calls._fetched.clear()  # a double before this one may have had its port, and other keys
        sent = [announce(engine, mine, vendor) for mine in (first, second)]
        for mine in sent:
            order = ORDER._replace(model=format_.model)
            format_.connect(double).submit(Submission(str(mine.provider_key), order))
            park(engine, mine, "no answer")
        call = double.call(double.jobs["p1"])
        with TestClient(app) as client:
            for _ in range(2):
                answer = client.post(f"{path}?{call.query}", content=call.body, headers=call.headers)
                assert answer.status_code == 204
            others = client.post(f"/hooks/http?{call.query}", content=call.body, headers=call.headers)
            problem(others, 401)  # another vendor's address has another secret
            problem(client.post("/hooks/runway", content=call.body, headers=call.headers), 401)
            stolen = double.call(double.jobs["p2"])
            problem(client.post(f"{path}?{call.query}x", content=call.body, headers=call.headers), 401)
            problem(client.post(f"{path}?{call.query}", content=stolen.body, headers=call.headers), 401)
            theirs = client.post(f"{path}?{stolen.query}", content=call.body, headers=call.headers)
            assert theirs.status_code == 204  # signed, at an address of ours: but the name is another's already
    (again,) = claim(engine, "w", [None], limit=1)
    assert (again.id, again.was_parked) == (first.id, True)
    assert again.provider_job_id in ("p1", "fal-ai/veo3.1/requests/p1")
    assert find(engine, second.id).provider_job_id is None
    settings.cache_clear()


def test_without_a_secret_no_callback_is_accepted(app: FastAPI) -> None:
    settings.cache_clear()
    with TestClient(app) as client:
        problem(client.post(PATH, content=BODY, headers=signed()), 404)
