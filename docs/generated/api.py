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
    (401, "token", "The token is missing, wrong, revoked or expired; the answer does not say which"),
    (408, "too-slow", "The body did not arrive within 20 s, plus time for the bytes that had arrived"),
    (413, "too-large", "The body is larger than 262,144 bytes"),
    (422, "invalid", "The request does not match the schema; `faults` lists the invalid fields"),
    (422, "input", "The requested video cannot be made from this input"),
    (
        429,
        "spend-limit",
        "A spend limit of `admission.spend_limits` has no room for the video; `Retry-After` says when it may have",
    ),
    (429, "rate", "The token exceeds `access.requests_a_second`; `Retry-After` says how long to wait"),
    (
        429,
        "too-many",
        "The token has reached `access.requests_of_token`, `streams_of_token` or `uploads_of_token`; see `Retry-After`",
    ),
    (500, "unforeseen", "An internal error, which is logged; the answer has no details"),
    (503, "budget", "Spend has reached its hard limit; `detail` says when to ask again"),
    (
        503,
        "overload",
        "This process is overloaded: an `_at_once` limit or the wait for the store, 2 s, is over; see `Retry-After`",
    ),
    (503, "store", "The store does not answer, or is busy; `Retry-After` says how long to wait"),
)
_BY_ALL: Final = {"400", "401", "403", "408", "413", "422", "429", "500", "503"}  # said once for all routes


@cache
def schema() -> dict[str, Any]:
    """Return the OpenAPI schema, without opening a store or a bucket."""
    nowhere = Workspace(sa.create_engine("sqlite://"), bucket=None, deployment_id="docs")  # type: ignore[arg-type]  # nothing is asked of it
    found: dict[str, Any] = create_app(AppState(nowhere, Path("scratch"))).openapi()
    return found


def routes() -> list[tuple[str, str, dict[str, Any]]]:
    """List every route: method, path and its part of the schema."""
    return [
        (method.upper(), path, said)
        for path, methods in schema()["paths"].items()
        for method, said in methods.items()
        if method in _METHODS
    ]


def problems(_argument: str = "") -> str:
    """Return the table of all problem types, by status."""
    raised = [(status, kind, inspect.cleandoc(error.__doc__ or "").splitlines()[0]) for error, status, kind in STATUSES]
    known = {kind for _, kind, _ in (*raised, *_OTHERS)}
    declined = [(status, str(why), "The request was declined") for why, status in REFUSED.items() if why not in known]
    rows = [(str(status), f"`urn:reelkeeper:{kind}`", said) for status, kind, said in (*raised, *declined, *_OTHERS)]
    return table(("status", "type", "when"), sorted(rows))


def overview(_argument: str = "") -> str:
    """Return the table of all routes: a link to the section, the scope, and a summary."""
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
    """Return a section for each route."""
    return "\n\n".join(_section(*route) for route in routes())


def schemas(_argument: str = "") -> str:
    """Return a section for each schema of a body."""
    found = schema()["components"]["schemas"]
    return "\n\n".join(_body(name, found[name]) for name in sorted(found) if "properties" in found[name])


def _section(method: str, path: str, said: dict[str, Any]) -> str:
    scopes = _scopes(said)
    needed = f"It needs the scope `{scopes[0]}`." if scopes else "It needs no token."
    summary = str(said.get("summary", "")).rstrip("?.")
    parts = [
        f"### {method} {path}",
        f"**{summary}.** {said.get('description', '')}",
        needed,
    ]
    if asked := said.get("parameters"):
        rows = [
            (
                f"`{item['name']}`",
                item["in"],
                kind(item["schema"], _definitions()) + ("" if item.get("required") else ", optional"),
                item.get("description", ""),
            )
            for item in asked
        ]
        parts.append(table(("parameter", "in", "type", "description"), rows))
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
    """Return the anchor that both GitHub and mkdocs give to the heading of a route."""
    return re.sub(r"[^\w-]", "", f"{method} {path}".lower().replace(" ", "-"))


def _body(name: str, said: dict[str, Any]) -> str:
    needed = said.get("required", [])
    rows = [
        (
            f"`{field}`",
            kind(prop, _definitions()) + ("" if field in needed else ", optional"),
            prop.get("description", ""),
        )
        for field, prop in said["properties"].items()
    ]
    return f"### {name}\n\n{said.get('description', '')}\n\n{table(('field', 'type', 'description'), rows)}"


def _answered(answer: dict[str, Any]) -> str:
    content = answer.get("content", {})
    return ", ".join(f"{_named(item.get('schema', {}))} as `{kind_}`" for kind_, item in content.items()) or "none"


def _named(said: dict[str, Any]) -> str:
    if items := said.get("contentSchema", {}).get("items"):
        return f"events, each a {_named(items)},"
    name = str(said.get("$ref", "")).rpartition("/")[2]
    return f"[{name}](#{name.lower()})" if name else kind(said, _definitions()) if said else "anything"


def _example(said: dict[str, Any]) -> Any:  # noqa: ANN401  whatever a body is
    return next(iter(_definitions().get(str(said.get("$ref", "")).rpartition("/")[2], {}).get("examples", [])), None)


def _definitions() -> dict[str, Any]:
    found: dict[str, Any] = schema()["components"]["schemas"]
    return found
