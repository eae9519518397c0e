"""The FastAPI app: routes, middleware and the OpenAPI schema."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware

from reelkeeper.api.app_state import AppState
from reelkeeper.api.auth import AuthMiddleware
from reelkeeper.api.collector import Service
from reelkeeper.api.dispatching import Dispatching
from reelkeeper.api.figures import REQUEST_ID, Requests
from reelkeeper.api.following import Following
from reelkeeper.api.paths import METHODS, PathAsSent, heads
from reelkeeper.api.problems import REPLAYED, Problem, answer_errors, unforeseen
from reelkeeper.api.routes import (
    health,
    holds,
    hooks,
    images,
    jobs,
    ledger,
    personal,
    quotes,
    takedowns,
    uploads,
    users,
    videos,
    webhooks,
)
from reelkeeper.model.requests import GenerationRequest

_HEADERS: Final = {
    "RateLimit-Policy": {
        "description": "Limit of the token: `q` requests in every `w` seconds",
        "schema": {"type": "string", "examples": ['"token";q=200;w=4']},
    },
    "RateLimit": {
        "description": "What is left of it: `r` requests now, and one more in `t` seconds",
        "schema": {"type": "string", "examples": ['"token";r=199;t=1']},
    },
    "Retry-After": {"description": "Seconds to wait before the same request", "schema": {"type": "integer"}},
    REPLAYED: {
        "description": "The idempotency key was used before, and this is what it did",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def create_app(app_state: AppState) -> FastAPI:
    """Create the app on an open workspace, which the caller closes afterwards."""
    app = FastAPI(
        title="Reelkeeper",
        version=version("reelkeeper"),
        summary="The API that a video service calls at request time.",
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy, a redirect would lead past its prefix, or from https to http
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,  # `create_job`: the name in clients that are generated
    )
    app.state.app_state = app_state
    app.state.registry = CollectorRegistry()
    app.state.registry.register(Service(app_state.workspace.engine))
    app.state.dispatching = Dispatching(app_state.workspace.engine, app_state.orchestrator, app.state.registry)
    app.state.load = app_state.load
    app.state.readiness = health.Asking(app_state.workspace.engine)
    app.state.following = Following(app_state.workspace.engine)
    of_users = (users, ledger, personal)
    rooms = (health, jobs, quotes, videos, *of_users, holds, takedowns, uploads, images, webhooks, hooks)
    routers = [room.router for room in rooms]
    for router in (*routers, heads(routers)):
        app.include_router(router)
    answer_errors(app)
    # guard auth.error_headers: a page cannot read an internal error, and a caller not what is left of its rate
    app.add_middleware(ServerErrorMiddleware, handler=unforeseen)  # the framework's own stands outside of all others
    app.add_middleware(AuthMiddleware, engine=app_state.workspace.engine, load=app_state.load)
    if app_state.cors_origins:
        # Before the token is checked, as a browser's question has none. It answers only such questions.
        app.add_middleware(
            CORSMiddleware,
            # guard cors.listed: any page that the holder of a token opens calls the API with it
            allow_origins=app_state.cors_origins,
            allow_methods=METHODS,
            allow_headers=("Authorization", "Idempotency-Key", REQUEST_ID),
            expose_headers=(*_HEADERS, REQUEST_ID),
        )
    app.add_middleware(Requests, registry=app.state.registry)
    app.add_middleware(PathAsSent)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    delivering = app.state.app_state.delivering
    app.state.dispatching.start()
    if delivering:
        delivering.start()
    tasks = [asyncio.create_task(item) for item in (app.state.load.keep_time(), app.state.load.keep_limits())]
    yield
    for task in tasks:
        task.cancel()
    app.state.following.stop()
    app.state.dispatching.stop()
    if delivering:
        delivering.stop()


def _schema(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        # No route returns the first two as its body; and FastAPI writes 2^63, a bound, as 9.223372036854776e+18.
        for model in (Problem, jobs.JobEvent, GenerationRequest):
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(described.pop("$defs", {}))
            schemas[model.__name__] = described
        made["components"]["headers"] = _HEADERS
        for path, operations in made["paths"].items():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    named = [name for name in _HEADERS if _has(name, path, operation, status)]
                    refs = {name: {"$ref": f"#/components/headers/{name}"} for name in named}
                    answer["headers"] = answer.get("headers", {}) | refs
        app.openapi_schema = made
    return app.openapi_schema


def _has(header: str, path: str, operation: dict[str, Any], status: str) -> bool:
    if header == "Retry-After":
        return status in {"409", "429", "503"}
    if header == REPLAYED:
        return status in {"200", "201", "202"} and any(
            each["name"] == "Idempotency-Key" for each in operation.get("parameters", ())
        )
    return path.startswith("/v1/") and status != "401"
