"""Quotes over HTTP: the body of a request for a video, answered with what that request then gets."""

from decimal import Decimal

import pytest
from fastapi.testclient import TestClient

from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import freeze
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.core.engine import transaction
from tests.api.answers import problem
from tests.faults.world import World
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force
from tests.tiers import tiers

FOX = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}, "tag": "trial"}


@pytest.fixture(autouse=True)
def ten_dollars(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10 * DOLLAR, "first", run_id="test")


def test_a_quote_needs_no_key_and_names_the_price_that_is_then_held(client: TestClient) -> None:
    told = [client.post("/v1/quotes", json=FOX).json() for _ in range(2)]
    assert told[0] == told[1]
    assert (told[0]["status"], told[0]["refusal"], told[0]["retry_seconds"]) == ("queued", None, None)
    asked = client.post("/v1/jobs", json=FOX, headers={"Idempotency-Key": "k1"}).json()
    names = ("status", "price_microusd", "price_book")
    assert [told[0][name] for name in names] == [asked[name] for name in names]
    assert client.post("/v1/quotes", json=FOX).json()["status"] == "joined"


@pytest.mark.parametrize(
    ("why", "status"), [("credits", 402), ("quota", 403), ("spend-limit", 429), ("budget", 503), ("frozen", 503)]
)
def test_a_refusal_is_the_problem_that_the_request_is_answered_with(
    client: TestClient, world: World, why: str, status: int
) -> None:
    engine, little, asked = world.workspace.engine, Decimal("0.000001"), FOX
    match why:
        case "credits":
            make_user(engine, "bob")
            asked = FOX | {"user_id": "bob"}
        case "quota":
            put_in_force(engine, tiers=tiers(free={"quota_bytes": 1}))
        case "spend-limit":
            limit = SpendLimit(scope="user:*", period=Period.DAY, usd=little)
            put_in_force(engine, admission=AdmissionPolicy(spend_limits=(limit,)))
        case "budget":
            put_in_force(engine, admission=AdmissionPolicy(daily_limit_usd=little))
        case "frozen":
            freeze.freeze(engine, by="test", reason="a test")
    told = client.post("/v1/quotes", json=asked).json()
    answer = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": "k1"})
    refused = problem(answer, status)
    assert {name: value for name, value in told["refusal"].items() if value is not None} == refused
    assert refused["type"] == f"urn:reelkeeper:{why}"
    waits = answer.headers.get("retry-after")
    assert (told["retry_seconds"] is None) == (waits is None)
    assert abs(int(waits or 0) - (told["retry_seconds"] or 0)) <= 60


def test_a_quote_is_for_a_known_user_and_a_whole_request(client: TestClient) -> None:
    problem(client.post("/v1/quotes", json=FOX | {"user_id": "nobody"}), 404)
    problem(client.post("/v1/quotes", json={"user_id": "ann", "request": {"model": "m"}}), 422)
    beyond = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox", "width": 10**6}}
    problem(client.post("/v1/quotes", json=beyond), 422)
