"""Requests that the OpenAPI schema allows or forbids are answered as it says, never with a 5xx.

What is well formed may still be refused for what it says, so `positive_data_acceptance` is not asked: instead, such a
refusal must be another than `urn:reelkeeper:invalid`, which says that the request does not match the schema.
"""

import re
import secrets
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.routes.jobs import JobEvent
from reelkeeper.model.ids import flaw
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.rules.core.request_limits import AccessPolicy
from reelkeeper.store.core.engine import transaction
from tests.doubles.r2 import R2Double
from tests.faults.world import World
from tests.odd_ids import NAMED

UNHURRIED = AccessPolicy(requests_a_second=100_000, burst=1_000_000)


@pytest.fixture
def served(
    sqlite_engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path
) -> tuple[FastAPI, str]:
    """An app with a user and a video that the schema's examples name, and a token for all of it."""
    folder = tmp_path / secrets.token_hex(6)
    folder.mkdir()
    world = World.make(folder, str(sqlite_engine.url), endpoint, double, clip=tiny_clip)
    world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10**9, "first", run_id="test")
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    app_state = AppState(world.workspace, folder / "scratch")
    app_state.load.limit(UNHURRIED)
    return create_app(app_state), text


@pytest.fixture
def schema(served: tuple[FastAPI, str]) -> BaseSchema:
    app, _ = served
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.long("hundreds of requests")
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_the_schema_knows(
    schema: BaseSchema, served: tuple[FastAPI, str], mode: GenerationMode
) -> None:
    asked = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=20, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
        def ask(case: schemathesis.Case[Any]) -> None:
            nonlocal asked
            excluded: list[Any] = [positive_data_acceptance]
            made = case.meta.components if case.meta else {}
            wrong = {place for place, part in made.items() if part.mode.is_negative}
            if wrong <= {ParameterLocation.QUERY, ParameterLocation.HEADER}:
                # An unknown query parameter is ignored, and a token that was left out is sent all the same.
                excluded.append(negative_data_rejection)
            headers = {"Authorization": f"Bearer {served[1]}"}
            answer = case.call_and_validate(headers=headers, excluded_checks=excluded, timeout=120)  # when busy
            if mode.is_positive and answer.status_code == 422:
                assert answer.json()["type"] != "urn:reelkeeper:invalid", (case.as_curl_command(), answer.text)
            asked += 1

        try:
            ask()
        except Unsatisfiable:  # a route that takes nothing cannot be asked wrongly
            assert mode == GenerationMode.NEGATIVE
    assert asked > 50


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("takedowns", {"video_id": "v1", "reason": "r", "max_videos": False}),
        ("takedowns", {"video_id": "v1", "reason": "r", "same_bytes": "yes"}),
        ("holds", {"scope": "video", "subject": "v1", "reason": "r", "legal": "yes"}),
        ("holds", {"scope": "video", "subject": "v1", "reason": "r", "until": 1_900_000_000}),
        ("holds", {"scope": "video", "subject": "v1", "reason": "r", "until": "1900000000"}),
        ("views", {"views": [{"video_id": "v1", "views": True}]}),
        ("views", {"views": [{"video_id": "v1"}], "at": 1_900_000_000}),
        ("views", {"views": [{"video_id": "v\x14"}]}),
        ("views", {"views": [{"video_id": "v1", "views": 1.5}]}),
        ("users/ann/credits", {"amount_microusd": 1.5}),
        ("users/ann/credits", {"amount_microusd": "1"}),
        ("users/ann/credits", {"amount_microusd": True}),
        ("jobs", {"user_id": "ann", "request": {"model": "m", "prompt": "p", "fps": 24.5}}),
        ("jobs", {"user_id": "ann", "request": {"model": "m", "prompt": "p", "seed": 2.0**53}}),  # may have been + 1
        ("jobs", {"user_id": "ann", "request": {"model": "m", "prompt": "p", "seed": 2**63}}),
    ],
)
def test_a_value_of_another_type_changes_nothing(served: tuple[FastAPI, str], path: str, body: dict[str, Any]) -> None:
    app, text = served
    headers = {"Authorization": f"Bearer {text}", "Idempotency-Key": "k"}
    with TestClient(app, headers=headers) as client:
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 422, answer.text
        assert client.get("/v1/users/ann/videos").json()["videos"][0]["state"] == "live"
        assert client.get("/v1/users/ann").json()["available_microusd"] == 10**9


def test_a_whole_number_may_be_written_with_a_point(served: tuple[FastAPI, str]) -> None:
    """As JSON Schema has it, and some clients write every number; it means the same."""
    app, text = served
    with TestClient(app, headers={"Authorization": f"Bearer {text}", "Idempotency-Key": "k"}) as client:
        told = client.post("/v1/users/ann/credits", json={"amount_microusd": 5_000_000.0}).json()
        assert (told["amount_microusd"], told["available_microusd"]) == (5_000_000, 10**9 + 5_000_000)
        again = client.post("/v1/users/ann/credits", json={"amount_microusd": 5_000_000})
        assert again.headers["Idempotency-Replayed"] == "true"
        for place, (fps, seed) in enumerate(((24, 7), (24.0, 7.0))):
            asked = {"user_id": "ann", "request": {"model": "m", "prompt": "p", "fps": fps, "seed": seed}}
            told = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": f"k{place}"}).json()
            assert told["status"] == ("queued", "joined")[place]
        assert client.get("/v1/users", params={"limit": "1.0"}).json()["users"][0]["id"] == "ann"


def test_ids_of_the_schema_are_those_of_the_server(schema: BaseSchema) -> None:
    """Else callers that check by it send what is refused, or cannot send what is taken."""
    operation = schema["/v1/users/{user_id}"]["GET"]
    wanted = re.compile(operation.path_parameters[0].definition["schema"]["pattern"])
    for text in (*NAMED, *(f"a{chr(n)}b" for n in range(0xA0)), " a", "a ", "\ufffd", "\u2028"):
        assert bool(wanted.search(text)) == (flaw(text) is None), text


def test_the_bound_of_a_seed_is_that_of_the_server(served: tuple[FastAPI, str]) -> None:
    seed = served[0].openapi()["components"]["schemas"]["GenerationRequest"]["properties"]["seed"]
    assert repr(seed["anyOf"][0]["exclusiveMaximum"]) == str(2**63)


def test_no_two_models_share_a_name(served: tuple[FastAPI, str]) -> None:
    """Else clients that are generated get names such as `reelkeeper__api__routes__webhooks__Removed`."""
    assert [name for name in served[0].openapi()["components"]["schemas"] if "__" in name] == []


def test_a_generated_client_calls_each_route_by_a_verb_and_what_it_is_about(served: tuple[FastAPI, str]) -> None:
    """Such as `create_job`, not `ask_v1_jobs_post`; no two alike."""
    routes = [route for methods in served[0].openapi()["paths"].values() for route in methods.values()]
    names = [route["operationId"] for route in routes]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name) or "_v1_" in name] == []


def test_every_route_has_a_summary_and_every_body_an_example(served: tuple[FastAPI, str]) -> None:
    made = served[0].openapi()
    for path, methods in made["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            body = route.get("requestBody")
            if body and "application/json" in body["content"]:
                name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert made["components"]["schemas"][name].get("examples"), name


def test_the_schema_of_an_event_stream_is_that_of_its_events(served: tuple[FastAPI, str]) -> None:
    app, text = served
    made = app.openapi()
    answer = made["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]["200"]
    assert list(answer["content"]) == ["text/event-stream"]
    items = answer["content"]["text/event-stream"]["schema"]["contentSchema"]["items"]
    assert items["$ref"].rpartition("/")[2] == "JobEvent"
    data = made["components"]["schemas"]["JobEvent"]["properties"]["data"]
    assert data["contentSchema"]["$ref"].rpartition("/")[2] == "Job"
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}) as client:
        asked = {"user_id": "ann", "request": {"model": "m", "prompt": "a fox"}}
        job_id = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": "k"}).json()["job_id"]
        client.delete(f"/v1/jobs/{job_id}")
        stream = client.get(f"/v1/jobs/{job_id}/events")
        assert stream.headers["content-type"].partition(";")[0] == "text/event-stream"
        (said,) = stream.text.strip().split("\n\n")
        event = JobEvent.model_validate(dict(line.split(": ", 1) for line in said.splitlines()))
        assert (event.event, event.data.state) == ("end", "cancelled")
