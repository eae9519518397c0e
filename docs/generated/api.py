"""The HTTP API, from the OpenAPI schema that the server itself gives."""

import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from docs.generated.tables import kind, table
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.problems import STATUSES
from reelkeeper.api.routes.jobs import REFUSED
from reelkeeper.operations.core.workspace import Workspace

_METHODS: Final = ("get", "post", "put", "delete")
_OTHERS: Final = (
    (401, "token", "No token, or one that is wrong, revoked or expired: the answer is the same"),
    (408, "too-slow", "The body did not arrive within `access.body_seconds`, prolonged by what had come"),
    (413, "too-large", "The body is larger than `access.body_bytes`"),
    (422, "invalid", "The request is not as the schema says; `faults` names the fields"),
    (422, "input", "The video that is asked for cannot be made as it is described"),
    (
        429,
        "spend-limit",
        "A budget of `admission.spend_limits` has no room for the video; `Retry-After` says when it has, if ever",
    ),
    (429, "rate", "More than `access.requests_a_second`; `Retry-After` says for how long to wait"),
    (
        429,
        "too-many",
        "The token has `access.requests_of_token`, `streams_of_token` or `uploads_of_token` under way; `Retry-After`",
    ),
    (500, "unforeseen", "An error of ours, logged and not told"),
    (503, "budget", "Spend has reached its hard limit; `detail` says from when on to ask again"),
    (
        503,
        "overload",
        "More is asked than this process can do: an `_at_once`, or no turn in `access.wait_seconds`; `Retry-After`",
    ),
    (503, "store", "The store does not answer, or is busy; `Retry-After` says for how long to wait"),
)
_BY_ALL: Final = {"400", "401", "403", "408", "413", "422", "429", "500", "503"}  # said once for all routes


@cache
def schema() -> dict[str, Any]:
    """Give the schema. No store and no bucket is opened for it."""
    nowhere = Workspace(sa.create_engine("sqlite://"), bucket=None, deployment_id="docs")  # type: ignore[arg-type]  # nothing is asked of it
    found: dict[str, Any] = create_app(AppState(nowhere, Path("scratch"))).openapi()
    return found


def routes() -> list[tuple[str, str, dict[str, Any]]]:
    """Give method, path and what the schema says of every route."""
    return [
        (method.upper(), path, said)
        for path, methods in schema()["paths"].items()
        for method, said in methods.items()
        if method in _METHODS
    ]


def problems(_argument: str = "") -> str:
    """Give every kind of problem by its status."""
    raised = [(status, kind, inspect.cleandoc(error.__doc__ or "").splitlines()[0]) for error, status, kind in STATUSES]
    known = {kind for _, kind, _ in (*raised, *_OTHERS)}
    declined = [(status, str(why), "The request was declined") for why, status in REFUSED.items() if why not in known]
    rows = [(str(status), f"`urn:reelkeeper:{kind}`", said) for status, kind, said in (*raised, *declined, *_OTHERS)]
    return table(("status", "type", "when"), sorted(rows))


def overview(_argument: str = "") -> str:
    """Give a row for each route: where its section is, the scope that it needs, and what it does."""
    rows = [
        (
            f"[`{method} {path}`](#{_anchor(method, path)})",
            ", ".join(f"`{scope}`" for scope in _scopes(said)) or "none",
            str(said.get("summary", "")),
        )
        for method, path, said in routes()
    ]
    return table(("route", "scope", "what it does"), rows)


def sections(_argument: str = "") -> str:
    """Give a section for each route."""
    return "\n\n".join(_section(*route) for route in routes())


def schemas(_argument: str = "") -> str:
    """Give a section for each kind of body."""
    found = schema()["components"]["schemas"]
    return "\n\n".join(_body(name, found[name]) for name in sorted(found) if "properties" in found[name])


def _section(method: str, path: str, said: dict[str, Any]) -> str:
    scopes = _scopes(said)
    needed = f"It needs the scope `{scopes[0]}`." if scopes else "It needs no token."
    summary = str(said.get("summary", "")).rstrip("?.")
    parts = [
        f"### {method} {path} {{#{_anchor(method, path)}}}",
        f"**{summary}.** {said.get('description', '')}",
        needed,
    ]
    if asked := said.get("parameters"):
        rows = [
            (
                f"`{item['name']}`",
                item["in"],
                kind(item["schema"], _definitions()) + ("" if item.get("required") else ", may be left out"),
                item.get("description", ""),
            )
            for item in asked
        ]
        parts.append(table(("parameter", "in", "what it is", "what it says"), rows))
    if content := said.get("requestBody", {}).get("content", {}).get("application/json"):
        parts.append(f"The body is {_named(content['schema'])}.")
        if example := _example(content["schema"]):
            parts.append(f"```json\n{json.dumps(example, indent=2)}\n```")
    answers = [
        (status, answer["description"], _answered(answer))
        for status, answer in said["responses"].items()
        if status not in _BY_ALL or "application/problem+json" not in answer.get("content", {})
    ]
    parts.append(table(("answer", "when", "body"), answers))
    return "\n\n".join(parts)


def _scopes(said: dict[str, Any]) -> list[str]:
    return [scope for item in said.get("security", []) for found in item.values() for scope in found]


def _anchor(method: str, path: str) -> str:
    return "-".join(re.findall(r"\w+", f"{method} {path}".lower()))


def _body(name: str, said: dict[str, Any]) -> str:
    needed = said.get("required", [])
    rows = [
        (
            f"`{field}`",
            kind(prop, _definitions()) + ("" if field in needed else ", may be left out"),
            prop.get("description", ""),
        )
        for field, prop in said["properties"].items()
    ]
    return f"### {name}\n\n{said.get('description', '')}\n\n{table(('field', 'what it is', 'what it says'), rows)}"


def _answered(answer: dict[str, Any]) -> str:
    content = answer.get("content", {})
    return ", ".join(f"{_named(item.get('schema', {}))} as `{kind_}`" for kind_, item in content.items()) or "none"


def _named(said: dict[str, Any]) -> str:
    name = str(said.get("$ref", "")).rpartition("/")[2]
    return f"[{name}](#{name.lower()})" if name else kind(said, _definitions()) if said else "anything"


def _example(said: dict[str, Any]) -> Any:  # noqa: ANN401  whatever a body is
    return next(iter(_definitions().get(str(said.get("$ref", "")).rpartition("/")[2], {}).get("examples", [])), None)


def _definitions() -> dict[str, Any]:
    found: dict[str, Any] = schema()["components"]["schemas"]
    return found
