"""A provider that says that a job is over is believed when its call is signed, and then only to look."""

import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from reelkeeper.adapters.providers.webhook import HEADER, sign
from reelkeeper.api.routes.hooks import PATH
from reelkeeper.operations.jobs.claim import announce, claim, note_sent, park
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.settings import settings
from tests.api.answers import problem
from tests.faults.world import World
from tests.operations.queue import enqueue, row

SECRET, BODY = "a secret that both know", b'{"id": "p1", "status": "succeeded"}'


@pytest.fixture
def caller(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("REELKEEPER_GENERATOR_WEBHOOK_SECRET", SECRET)
    settings.cache_clear()
    with TestClient(app) as client:
        yield client
    settings.cache_clear()


def signed(secret: str = SECRET, body: bytes = BODY) -> dict[str, str]:
    return {HEADER: sign(secret, body, int(time.time()))}


def test_a_parked_job_is_looked_at_at_once_when_its_provider_calls(caller: TestClient, world: World) -> None:
    engine = world.workspace.engine
    enqueue(engine, row("j"))
    (mine,) = claim(engine, "w", [None], limit=1)
    park(engine, note_sent(engine, announce(engine, mine, "http"), "p1"), "no answer", AttemptPolicy())
    assert claim(engine, "w", [None], limit=1) == []
    assert caller.post(PATH, content=BODY, headers=signed()).status_code == 204
    (again,) = claim(engine, "w", [None], limit=1)
    assert (again.id, again.was_parked, again.provider_job_id) == ("j", True, "p1")


def test_a_call_about_a_job_that_is_not_known_is_taken_and_means_nothing(caller: TestClient) -> None:
    body = b'{"id": "another"}'
    assert caller.post(PATH, content=body, headers=signed(body=body)).status_code == 204


def test_a_call_that_is_not_signed_with_the_secret_is_refused(caller: TestClient) -> None:
    for headers in ({}, signed("another secret"), signed(body=b"{}")):
        problem(caller.post(PATH, content=BODY, headers=headers), 401)
    problem(caller.post(PATH, content=b"x" * 10**7, headers=signed()), 413)


def test_without_a_secret_nobody_is_expected_to_call(app: FastAPI) -> None:
    settings.cache_clear()
    with TestClient(app) as client:
        problem(client.post(PATH, content=BODY, headers=signed()), 404)
