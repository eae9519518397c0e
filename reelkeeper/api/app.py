"""The FastAPI app: routes, middleware and the OpenAPI schema."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry

from reelkeeper.api.app_state import AppState
from reelkeeper.api.auth import AuthMiddleware
from reelkeeper.api.collector import Service
from reelkeeper.api.dispatching import Dispatching
from reelkeeper.api.figures import Requests
from reelkeeper.api.following import Following
from reelkeeper.api.paths import PathAsSent
from reelkeeper.api.problems import Problem, answer_errors
from reelkeeper.api.routes import (
    health,
    holds,
    hooks,
    images,
    jobs,
    ledger,
    personal,
    takedowns,
    uploads,
    users,
    videos,
    webhooks,
)


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
    )
    app.state.app_state = app_state
    app.state.registry = CollectorRegistry()
    app.state.registry.register(Service(app_state.workspace.engine))
    app.state.dispatching = Dispatching(app_state.workspace.engine, app_state.orchestrator, app.state.registry)
    app.state.load = app_state.load
    app.state.readiness = health.Asking(app_state.workspace.engine)
    app.state.following = Following(app_state.workspace.engine)
    for room in (health, jobs, videos, users, ledger, personal, holds, takedowns, uploads, images, webhooks, hooks):
        app.include_router(room.router)
    answer_errors(app)
    app.add_middleware(AuthMiddleware, engine=app_state.workspace.engine, load=app_state.load)
    app.add_middleware(Requests, registry=app.state.registry)
    app.add_middleware(PathAsSent)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.dispatching.start()
    tasks = [asyncio.create_task(item) for item in (app.state.load.keep_time(), app.state.load.keep_limits())]
    yield
    for task in tasks:
        task.cancel()
    app.state.following.stop()
    app.state.dispatching.stop()


def _schema(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        app.openapi_schema = made
    return app.openapi_schema
