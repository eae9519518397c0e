"""Lists over HTTP: jobs, users and moves of credits, in pages that have each once, and of nobody else."""

from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from reelkeeper.operations.billing import ledger
from reelkeeper.operations.billing.users import rename
from reelkeeper.operations.jobs import settle
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import users
from tests.api.answers import problem
from tests.faults.world import World
from tests.operations.asking import ask, fox
from tests.operations.books import DOLLAR, make_user


@pytest.fixture(autouse=True)
def two_users(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10 * DOLLAR, "first", run_id="test", reason="order 1")
    make_user(world.workspace.engine, "bob", 10 * DOLLAR)


def pages(client: TestClient, path: str, name: str, **wanted: object) -> list[dict[str, Any]]:
    """Read a list two at a time."""
    found, after = list[dict[str, Any]](), None
    while True:
        answer = client.get(path, params={"limit": 2, **wanted, **({"after": after} if after else {})})
        assert answer.status_code == 200, answer.text
        found += answer.json()[name]
        after = answer.json()["after"]
        assert len(answer.json()[name]) == 2 or after is None
        if after is None:
            return found


def test_jobs_are_listed_for_their_user_alone(client: TestClient, world: World) -> None:
    engine = world.workspace.engine
    asked = {user: [ask(engine, f"{user}{n}", fox(seed=n), user=user) for n in range(3)] for user in ("ann", "bob")}
    of_ann = [getattr(answer, "job_id", "") for answer in asked["ann"]]
    listed = pages(client, "/v1/jobs", "jobs", user_id="ann")
    assert [job["job_id"] for job in listed] == of_ann[::-1]
    assert {job["user_id"] for job in listed} == {"ann"}
    for job in listed:
        told = client.get(f"/v1/jobs/{job['job_id']}").json()
        assert {name: told.get(name, job[name]) for name in job} == job
    assert len(pages(client, "/v1/jobs", "jobs")) == 6
    problem(client.get("/v1/jobs", params={"user_id": "nobody"}), 404)


def test_jobs_are_listed_by_state_and_time(client: TestClient, world: World) -> None:
    engine = world.workspace.engine
    first, second = (getattr(ask(engine, f"k{n}", fox(seed=n)), "job_id", "") for n in range(2))
    settle.cancel(engine, first, run_id="test")
    assert [job["job_id"] for job in pages(client, "/v1/jobs", "jobs", state="cancelled")] == [first]
    assert [job["job_id"] for job in pages(client, "/v1/jobs", "jobs", state="queued", user_id="ann")] == [second]
    at = client.get(f"/v1/jobs/{second}").json()["created_at"]
    assert [job["job_id"] for job in pages(client, "/v1/jobs", "jobs", since=at)][:1] == [second]
    assert second not in [job["job_id"] for job in pages(client, "/v1/jobs", "jobs", until=at)]
    odd = "\u0661-" + "0" * 32
    for wrong in (
        {"state": "lost"},
        {"since": "2026-11-01"},
        {"after": "x"},
        {"after": odd},
        {"limit": 501},
        {"users": "ann"},
    ):
        problem(client.get("/v1/jobs", params=wrong), 422)


def test_users_are_listed_as_their_own_route_says(client: TestClient, world: World) -> None:
    world.video("v1")
    ask(world.workspace.engine, "k1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="a/b@c", tier="pro"))
    listed = pages(client, "/v1/users", "users")
    assert [user["id"] for user in listed] == sorted(["a/b@c", "ann", "bob"])
    for user in listed:
        told = client.get(f"/v1/users/{user['id'].replace('/', '%2F')}").json()
        assert user | {"spent_microusd": told["spent_microusd"]} == told


def test_a_ledger_has_every_move_of_its_user_and_sums_to_the_balance(client: TestClient, world: World) -> None:
    engine = world.workspace.engine
    job_id = getattr(ask(engine, "k1"), "job_id", "")
    settle.cancel(engine, job_id, run_id="test")
    ask(engine, "k2", fox(seed=2))
    ask(engine, "k3", user="bob")
    moves = pages(client, "/v1/users/ann/ledger", "moves")
    assert [move["kind"] for move in moves] == ["hold", "release", "hold", "grant"]
    assert [move["reason"] for move in moves] == ["", "", "", "order 1"]
    assert [move["job_id"] == job_id for move in moves] == [False, True, True, False]
    told = client.get("/v1/users/ann").json()
    for name in ("available_microusd", "held_microusd"):
        assert sum(move[name] for move in moves) == told[name]
    assert pages(client, "/v1/users/ann/ledger", "moves", kind="hold") == moves[:1] + moves[2:3]
    assert pages(client, "/v1/users/ann/ledger", "moves", until=moves[-1]["at"]) == []
    problem(client.get("/v1/users/nobody/ledger"), 404)
    problem(client.get("/v1/users/ann/ledger", params={"kind": "gift"}), 422)


def test_a_user_is_listed_by_the_id_from_before_a_rename(client: TestClient, world: World) -> None:
    ask(world.workspace.engine, "k1")
    rename(world.workspace.engine, "ann", "anna", by="test", apply=True)
    assert [job["user_id"] for job in pages(client, "/v1/jobs", "jobs", user_id="ann")] == ["anna"]
    assert len(pages(client, "/v1/users/ann/ledger", "moves")) == 2
