"""A client that openapi-python-client generates from the schema of a running API has every route, and each works.

The generator is in .venv-vendors, which `make test-long` makes. A route that is new needs nothing here if the ids and
the example of its body fit; its answer must have the type that the schema says.
"""

import io
import json
import os
import subprocess
from hashlib import md5
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from tests.api.crowd import PNG
from tests.api.served import served
from tests.faults.world import World
from tests.policies import put_in_force
from tests.tiers import tiers

GENERATOR = Path(__file__).parents[2] / ".venv-vendors" / "bin" / "openapi-python-client"
CONFIG = Path(__file__).parents[2] / "docs" / "examples" / "openapi-python-client.yaml"
PACKAGE = "reelkeeper_generated"


class Route(NamedTuple):
    """A route of the schema, and the class of each of its answers, by status."""

    method: str
    path: str
    said: dict[str, Any]

    def answer(self, status: int) -> str:
        """Name the class of the answer with this status."""
        content = self.said["responses"][str(status)].get("content", {"": {}})
        ((kind, body),) = content.items()
        named = str(body.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        return named or {"": "NoneType", "application/zip": "File"}.get(kind, "str")


class Generated:
    """The generated client, at work: the ids that its calls use, and the routes that it has called."""

    def __init__(self, base_url: str, token: str, schema: dict[str, Any]) -> None:
        self._models = import_module(f"{PACKAGE}.models")
        self.types = import_module(f"{PACKAGE}.types")
        client = import_module(f"{PACKAGE}.client")
        self._client = client.AuthenticatedClient(
            base_url=base_url, token=token, timeout=httpx.Timeout(120), httpx_args={"trust_env": False}
        )
        self._schemas = schema["components"]["schemas"]
        self.left = {
            f"{method} {path}": Route(method, path, said)
            for path, methods in schema["paths"].items()
            for method, said in methods.items()
        }
        self.ids = {"user_id": "ann", "video_id": "v1"}
        self._keys = iter(range(10**6))

    def call(self, name: str, body: object = None, **given: object) -> Any:  # noqa: ANN401  a generated class
        """Call a route, with the example of its body unless one is given; check its answer's type, and return it."""
        route = self.left.pop(name)
        (tag,) = route.said["tags"]
        parameters = {item["name"] for item in route.said.get("parameters", ()) if item.get("required")}
        if "Idempotency-Key" in parameters:
            given["idempotency_key"] = f"key-{next(self._keys)}"
        given |= {key: value for key, value in self.ids.items() if key in parameters and key not in given}
        if wanted := route.said.get("requestBody", {}).get("content", {}).get("application/json"):
            model = wanted["schema"]["$ref"].rpartition("/")[2]
            example = self._schemas[model]["examples"][0] if body is None else body
            given["body"] = getattr(self._models, model).from_dict(example)
        elif body is not None:
            given["body"] = body
        module = import_module(f"{PACKAGE}.api.{tag}.{_snake(route.said['operationId'])}")
        answer = module.sync_detailed(client=self._client, **given)
        assert answer.status_code < HTTPStatus.BAD_REQUEST, (name, answer.status_code, answer.content)
        assert type(answer.parsed).__name__ == route.answer(answer.status_code), (name, answer.parsed)
        return answer.parsed


def _snake(operation_id: str) -> str:
    return "_".join(part for part in operation_id.split("_") if part)


@pytest.fixture
def generated(sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401  it yields
    assert GENERATOR.exists(), "make .venv-vendors/.installed"
    _, token = tokens.create(sqlite_world.workspace.engine, "front", tuple(Scope), author="test")
    monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")  # the webhook's address
    monkeypatch.syspath_prepend(tmp_path)
    with served(sqlite_world, tmp_path) as server:
        schema = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
        (tmp_path / "openapi.json").write_text(json.dumps(schema))
        command: list[str | Path] = [
            GENERATOR,
            "generate",
            "--path",
            "openapi.json",
            "--output-path",
            PACKAGE,
            "--meta",
            "none",
        ]
        environment = os.environ | {"PATH": f"{GENERATOR.parent}{os.pathsep}{os.environ['PATH']}"}
        made = subprocess.run(
            [*command, "--config", CONFIG],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        yield Generated(server.url, token, schema)


@pytest.mark.long("a client is generated, and calls a server")
def test_every_route_is_in_the_generated_client_and_answers_as_documented(
    sqlite_world: World, generated: Generated
) -> None:
    call, ids = generated.call, generated.ids
    sqlite_world.video("v1")
    put_in_force(sqlite_world.workspace.engine, tiers=tiers(free={"keep_days": 30}, premium={"keep_days": 30}))

    job_id = ids["job_id"] = call("post /v1/jobs").job_id
    assert call("get /v1/jobs/{job_id}").state == "queued"
    assert call("delete /v1/jobs/{job_id}").state == "cancelled"
    assert job_id in call("get /v1/jobs/{job_id}/events")  # which ends, as the job has

    clip = sqlite_world.clip.read_bytes()
    digest = md5(clip, usedforsecurity=False).hexdigest()
    new = {"user_id": "ann", "video_id": "new", "size_bytes": len(clip), "md5": digest}
    upload = call("post /v1/uploads", new)
    ids["upload_id"] = upload.id
    httpx.put(upload.url, content=clip, headers=upload.headers.to_dict(), trust_env=False).raise_for_status()
    assert call("get /v1/uploads/{upload_id}").state == "open"
    assert call("post /v1/uploads/{upload_id}/complete").state == "stored"

    picture = generated.types.File(payload=io.BytesIO(PNG), mime_type="image/png")
    assert call("post /v1/images", picture).size_bytes == len(PNG)

    ids["webhook_id"] = call("post /v1/webhooks", {"url": "https://127.0.0.1/hook"}).id
    ids["hold_id"] = call("post /v1/holds").id
    assert [hold.id for hold in call("get /v1/holds").holds] == [ids["hold_id"]]
    assert call("delete /v1/holds/{hold_id}").released == ids["hold_id"]

    last = [name for name in generated.left if name.startswith("delete ") or "takedowns" in name]
    for name in sorted(generated.left.keys() - set(last)):
        call(name)

    assert call("delete /v1/webhooks/{webhook_id}").removed == ids["webhook_id"]
    assert call("post /v1/takedowns").video_id == "v1"
    assert call("get /v1/takedowns/{video_id}").video_id == "v1"
    assert call("delete /v1/videos/{video_id}", video_id="new").video_id == "new"
    assert call("delete /v1/users/{user_id}").pseudonym
    assert not generated.left
