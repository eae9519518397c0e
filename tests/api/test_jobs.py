"""Jobs over HTTP: answered at once, followed to their end, cancelled, and idempotent by key."""

import json
import threading
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from httpx import Response
from inline_snapshot import snapshot

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.following import Following
from reelkeeper.model.alerts import EventType
from reelkeeper.model.jobs import JobState
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import freeze, tokens
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core import policies
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import jobs, outbox
from reelkeeper.store.videos import user_data
from tests.api.answers import problem
from tests.faults.world import World
from tests.marks import marked
from tests.operations.asking import claim, make, row
from tests.operations.books import DOLLAR, make_user
from tests.operations.queue import sign
from tests.policies import put_in_force


@pytest.fixture(autouse=True)
def ten_dollars(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10 * DOLLAR, "first", run_id="test")


def ask(client: TestClient, key: str, prompt: str = "a fox", **other: object) -> Response:
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": prompt, **other}}
    answer: Response = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": key})
    return answer


def queued(client: TestClient, key: str = "k1", prompt: str = "a fox") -> str:
    answer = ask(client, key, prompt)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def finish(world: World, job_id: str) -> None:
    token = claim(world.workspace.engine, job_id)
    make(world.workspace.engine, job_id)
    settle.succeed(world.workspace.engine, Attempt(job_id, token), run_id="run")


def state(client: TestClient, job_id: str) -> dict[str, Any]:
    told: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return told


def test_a_job_is_shown_and_cancelled_for_its_user_alone(client: TestClient) -> None:
    path = f"/v1/jobs/{ask(client, 'k1').json()['job_id']}"
    for query, status in (("user_id=ben", 404), ("user=ann", 422)):  # a misspelt condition is not ignored
        problem(client.get(f"{path}?{query}"), status)
        problem(client.get(f"{path}/events?{query}"), status)
        problem(client.delete(f"{path}?{query}"), status)
    assert client.get(f"{path}?user_id=ann").json()["state"] == "queued"
    assert client.delete(f"{path}?user_id=ann").json()["state"] == "cancelled"


def test_without_a_worker_nothing_says_when_a_job_will_start(client: TestClient, world: World) -> None:
    told = ask(client, "k1").json()
    assert (told["place"], told["has_worker"]) == (1, False)
    assert not told.keys() & {"wait_seconds", "finish_seconds"}
    shown = state(client, told["job_id"])
    assert (shown["place"], shown["has_worker"]) == (1, False)
    assert shown["wait_seconds"] is shown["finish_seconds"] is None
    sign(world.workspace.engine)
    shown = state(client, told["job_id"])
    assert (shown["place"], shown["has_worker"], shown["wait_seconds"]) == (1, True, 0)


def test_a_new_request_is_queued_with_its_place_price_and_estimates(client: TestClient, world: World) -> None:
    sign(world.workspace.engine)
    answer = ask(client, "k1")
    told = answer.json()
    assert (answer.status_code, told["status"], told["place"], told["wait_seconds"]) == (202, "queued", 1, 0)
    assert told["finish_seconds"] > 100
    assert told["price_microusd"] > 0
    assert client.get("/v1/users/ann").json()["held_microusd"] == told["price_microusd"]
    assert ask(client, "k1").json()["job_id"] == told["job_id"]
    problem(ask(client, "k1", "another"), 422)
    assert state(client, told["job_id"])["place"] == 1


def test_the_same_request_joins_and_then_comes_from_the_cache(client: TestClient, world: World) -> None:
    first = queued(client)
    joined = ask(client, "k2")
    assert (joined.status_code, joined.json()["status"], joined.json()["leader_id"]) == (202, "joined", first)
    finish(world, first)
    for job_id in (first, joined.json()["job_id"]):
        told = state(client, job_id)
        assert (told["state"], told["video_id"], told["progress"]) == ("succeeded", first, 1.0)
    cached = ask(client, "k3")
    assert (cached.status_code, cached.json()["status"], cached.json()["video_id"]) == (200, "cached", first)
    assert cached.json()["charged_microusd"] == 0


def test_a_tag_is_kept_with_the_job_for_its_video(client: TestClient, world: World) -> None:
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}, "tag": "draft"}
    told = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": "k1"}).json()
    assert row(world.workspace.engine, told["job_id"]).tag == "draft"
    assert problem(client.post("/v1/jobs", json=asked | {"tag": "a b"}, headers={"Idempotency-Key": "k2"}), 422)


def test_metadata_comes_back_with_the_job_and_its_event(client: TestClient, world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        webhooks.add(session, "https://example.com", [EventType.JOB_ENDED], "whsec_c2VjcmV0")
    told, other = {"order": "1234", "name.of-page_2": "\N{FOX FACE}"}, {"order": "1235"}
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}}
    first, again = (
        client.post("/v1/jobs", json=asked | {"metadata": each}, headers={"Idempotency-Key": "k1"})
        for each in (told, other)
    )
    assert again.json()["job_id"] == first.json()["job_id"]
    job_id = first.json()["job_id"]
    assert state(client, job_id)["metadata"] == told
    assert client.get("/v1/jobs").json()["jobs"][0]["metadata"] == told
    finish(world, job_id)
    hit = client.post("/v1/jobs", json=asked | {"metadata": other}, headers={"Idempotency-Key": "k2"}).json()
    assert (hit["status"], state(client, hit["job_id"])["metadata"]) == ("cached", other)
    with transaction(world.workspace.engine, "test") as session:
        sent = session.execute(sa.select(outbox.c.payload)).scalar_one()
    assert sent["data"]["metadata"] == told
    with transaction(world.workspace.engine, "test") as session:
        exported = {name: [*found] for name, found in user_data.rows(session, "ann")}
    assert [job["caller_metadata"] for job in exported["jobs"]] == [told, other]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.com/own?a=1", None),
        ("https://example.com:8443/own", "refused"),
        ("https://evil.example/example.com/", "refused"),
        ("https://example.com@evil.example/", "invalid"),
        ("https://evil.example\\@example.com/", "invalid"),
        ("https://example.com/\\evil", "invalid"),
        ("ftp://example.com/", "invalid"),
    ],
)
def test_a_jobs_own_url_is_at_a_webhook(client: TestClient, world: World, url: str, kind: str | None) -> None:
    with transaction(world.workspace.engine, "test") as session:
        webhooks.add(session, "https://EXAMPLE.com:443/all", [EventType.VIDEO_PURGED], "whsec_c2VjcmV0")
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}, "webhook_url": url}
    quote = client.post("/v1/quotes", json=asked)
    answer = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": "k1"})
    assert (quote.status_code, answer.status_code) == ((422, 422) if kind else (200, 202))
    if kind:
        assert {problem(each, 422)["type"] for each in (quote, answer)} == {f"urn:reelkeeper:{kind}"}
        return
    finish(world, answer.json()["job_id"])
    with transaction(world.workspace.engine, "test") as session:
        assert session.execute(sa.select(outbox.c.url)).scalars().all() == [url]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"order": "x" * 501}, "body.metadata.order"),
        ({"a key": "x"}, "body.metadata.a key.[key]"),
        ({"x" * 41: "x"}, f"body.metadata.{'x' * 41}.[key]"),
        ({"order": 1234}, "body.metadata.order"),
        ({"order": {"id": "1"}}, "body.metadata.order"),
        ({"order": "\0"}, "body.metadata.order"),
        ({"order": "\ud800"}, "body.metadata.order"),
        ({str(number): "x" for number in range(21)}, "body.metadata"),
    ],
)
def test_metadata_beyond_its_bounds_is_refused_by_name(client: TestClient, wrong: object, where: str) -> None:
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}, "metadata": wrong}
    headers = {"Idempotency-Key": "k1", "Content-Type": "application/json"}
    answer = client.post("/v1/jobs", content=json.dumps(asked), headers=headers)
    problem(answer, 422)
    assert [fault["where"] for fault in answer.json()["faults"]] == [where]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_an_impossible_request_is_refused_with_a_reason_for_the_user(client: TestClient, world: World) -> None:
    long = ask(client, "k1", duration_seconds=120, width=4096, height=4096, fps=60)
    assert problem(long, 403)["type"] == "urn:reelkeeper:quota"
    assert "reelkeeper" not in str(problem(long, 403)["detail"])
    assert marked(problem(long, 403)["operator"]) == snapshot(
        "To allow more: reelkeeper quota set USER SIZE; to set a tier: reelkeeper videos import --users FILE"
    )
    make_user(world.workspace.engine, "bob", 1)
    poor = client.post(
        "/v1/jobs",
        json={"user_id": "bob", "request": {"model": "m", "prompt": "p"}},
        headers={"Idempotency-Key": "k"},
    )
    assert problem(poor, 402)["type"] == "urn:reelkeeper:credits"
    assert marked(problem(poor, 402)["detail"]) == snapshot(
        "this costs $0.01516, but user 'bob' has only $0.000001 available. Nothing was charged. Add credits"
    )
    assert marked(problem(poor, 402)["operator"]) == snapshot(
        "To add credits: reelkeeper credits grant USER DOLLARS --reason WHY"
    )
    told = problem(ask(client, "k2", "x" * 10_001), 422)
    assert told["faults"] == [
        {"where": "body.request.prompt", "what": snapshot("String should have at most 10000 characters")}
    ]
    problem(client.post("/v1/jobs", json={"user_id": "ann", "request": {"model": "m", "prompt": "p"}}), 422)
    freeze.freeze(world.workspace.engine, by="ann", reason="a test")
    answer = ask(client, "k4", "new")
    assert problem(answer, 503)["type"] == "urn:reelkeeper:frozen"
    assert answer.headers["retry-after"] == "30"


def test_a_request_beyond_a_model_is_refused_with_its_limits_for_the_user_and_their_source_for_the_operator(
    client: TestClient, world: World
) -> None:
    price = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a price list", "read_on": "2026-11-25"}
    sold = {"models": [{"model": "m", "limits": {"seconds": [4, 8], "audio": "never"}, "price": price}]}
    put_in_force(world.workspace.engine, book=PriceBook.model_validate(sold))
    told = problem(ask(client, "k1", duration_seconds=5, audio=True), 422)
    assert told["type"] == "urn:reelkeeper:model"
    assert told["detail"] == snapshot(
        "model 'm' cannot do this: 5 seconds were asked for, and it makes 4 or 8; "
        "sound was wanted, and its videos never have it. Nothing was held"
    )
    assert "book.models" in str(told["operator"])
    assert client.get("/v1/users/ann").json()["held_microusd"] == 0
    assert ask(client, "k1", duration_seconds=8).status_code == 202


def test_a_job_that_waits_is_given_up_at_no_charge(client: TestClient) -> None:
    job_id = queued(client)
    for _ in range(2):
        assert client.delete(f"/v1/jobs/{job_id}").json() == {"job_id": job_id, "state": "cancelled"}
    assert client.get("/v1/users/ann").json()["held_microusd"] == 0
    assert ask(client, "k1").json()["status"] == "cancelled"
    problem(client.delete(f"/v1/jobs/{'0' * 32}"), 404)
    problem(client.get(f"/v1/jobs/{'0' * 32}"), 404)
    problem(client.get(f"/v1/jobs/{'0' * 32}/events"), 404)


def test_a_job_at_work_is_asked_to_stop(client: TestClient, world: World) -> None:
    job_id = queued(client)
    claim(world.workspace.engine, job_id)
    assert client.delete(f"/v1/jobs/{job_id}").json()["state"] == "running"
    told = state(client, job_id)
    assert told["cancelling"]
    assert (told["state"], told["place"], told["wait_seconds"]) == ("running", None, 0.0)


def test_a_job_is_followed_until_it_ends(client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = threading.Semaphore(0), Following._look

    def counted(following: Following, due: set[str], before: dict[str, object]) -> object:
        found = look(following, due, before)
        looks.release()
        return found

    def await_a_look() -> None:
        """Wait for a look that began after this call: the one after that which may be under way."""
        while looks.acquire(blocking=False):
            pass
        assert looks.acquire(timeout=30)
        assert looks.acquire(timeout=30)

    monkeypatch.setattr(Following, "_look", counted)
    monkeypatch.setattr("reelkeeper.api.following.LOOK_SECONDS", 0.02)
    job_id = queued(client)

    def work() -> None:
        await_a_look()
        token = claim(world.workspace.engine, job_id)
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(progress=0.5))
        await_a_look()
        make(world.workspace.engine, job_id)
        settle.succeed(world.workspace.engine, Attempt(job_id, token), run_id="run")

    worker = threading.Thread(target=work)
    worker.start()
    answer = client.get(f"/v1/jobs/{job_id}/events")
    worker.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    sent = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [item["state"] for item in sent][:: len(sent) - 1] == [JobState.QUEUED, JobState.SUCCEEDED]
    assert 0.5 in [item["progress"] for item in sent]
    assert answer.text.count("event: end\n") == 1
    assert sent[-1]["video_id"] == job_id


@pytest.mark.long("an API of its own")
def test_beyond_the_budget_a_new_job_is_refused_with_when_to_ask_again(world: World, app_state: AppState) -> None:
    put_in_force(world.workspace.engine, admission=AdmissionPolicy(daily_limit_usd=Decimal(0)))
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    app = create_app(app_state)
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}) as client:
        answer = ask(client, "k1")
        said = problem(answer, 503)
        assert said["type"] == "urn:reelkeeper:budget"
        assert marked(said["detail"]) == snapshot("over budget for today; try again after DAY TIME UTC")
        assert 0 < int(answer.headers["Retry-After"]) <= 86_400
        limited = SpendLimit(scope="user:*", period=Period.DAY, usd=Decimal("0.02"))
        put_in_force(world.workspace.engine, admission=AdmissionPolicy(spend_limits=(limited,)))
        assert ask(client, "k1").status_code == 202
        answer = ask(client, "k2", "another fox")
        assert problem(answer, 429)["type"] == "urn:reelkeeper:spend-limit"
        assert 0 < int(answer.headers["Retry-After"]) <= 86_400
        described = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["responses"]["503"]
        assert "urn:reelkeeper:budget" in described["description"]


def test_under_policies_of_a_later_version_nothing_is_admitted(world: World, client: TestClient) -> None:
    with transaction(world.workspace.engine, "test") as session:
        policies.put_in_force(session, {"later": 1}, "later", after=0, author="test", reason="a test")
    told = problem(ask(client, "k1"), 503)
    assert (told["type"], told["detail"]) == (
        "urn:reelkeeper:schema",
        snapshot("An internal error occurred, and was logged."),
    )
    with transaction(world.workspace.engine, "test") as session:
        assert session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 0
