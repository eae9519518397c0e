"""Health checks, metrics, and what would lower the bill."""

import asyncio
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import OTHER_SCHEMA, WORK
from reelkeeper.api.problems import MEDIA_TYPE, documented, problem
from reelkeeper.errors import SchemaError
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations import reading
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.machine import require_schema
from reelkeeper.operations.health import status
from reelkeeper.rules.lifecycle.savings import subject

router = APIRouter(tags=["health"])
_READY_SECONDS: Final = 4.0  # for the store to answer; probes commonly time out after 5
_AWAY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The store does not answer",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The process is alive, and its store answers."""

    status: Literal["ready"] = "ready"
    frozen: bool = Field(description="Whether changes are stopped: reads work, and requests that change data get 503")


class Asking:
    """Queries the store for all callers together, so that a hanging store blocks only one thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._query: asyncio.Task[Readiness] | None = None

    async def answer(self) -> Readiness:
        """Return the store's answer. Raises SQLAlchemyError, or TimeoutError if it takes too long."""
        if self._query is None or self._query.done():
            self._query = asyncio.create_task(run_sync(_look, self._engine))
        async with asyncio.timeout(_READY_SECONDS):
            return await asyncio.shield(self._query)


def _look(engine: sa.Engine) -> Readiness:
    require_schema(engine)
    return Readiness(frozen=why_frozen(engine) is not None)


@router.get("/healthz", summary="Is the process alive?")
async def check_alive() -> Health:
    """Answer at once, without a query or a thread."""
    return Health()


@router.get("/readyz", summary="Does the store answer?", responses=_AWAY, response_model=Readiness)
async def check_ready(request: Request) -> Readiness | JSONResponse:
    """Query the store, without waiting for a place among other requests."""
    try:
        asking: Asking = request.app.state.readiness
        return await asking.answer()
    except (sa.exc.SQLAlchemyError, TimeoutError):
        return problem(503, "store", "The store does not answer.", headers={"Retry-After": "5"})
    except SchemaError:
        return problem(503, "schema", OTHER_SCHEMA)


@router.get(
    "/v1/metrics",
    summary="Metrics for Prometheus",
    dependencies=[needs(Scope.METRICS), WORK],
    responses=documented(),
    response_class=PlainTextResponse,
)
def get_metrics(request: Request) -> Response:
    """Return metrics of this process and of the whole service in Prometheus's text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class Lever(BaseModel):
    """Something that would lower the bill."""

    name: str = Field(description="Name of its kind, with a tier, model or user where there is one for each")
    title: str
    evidence: str = Field(description="Figures that it follows from")
    way: str = Field(description="Command, field of the policies or change of requests that does it")
    microusd_a_month: int = Field(description="Saving in micro-dollars a month, after the free allowance")
    since: datetime = Field(description="Time of the first forecast that found it")
    found_at: datetime = Field(description="Time of the last one")


class Levers(BaseModel):
    """All levers of a dollar a month or more, the largest first. They overlap, so their dollars do not add up."""

    levers: list[Lever]


@router.get(
    "/v1/levers",
    summary="List what would lower the bill",
    dependencies=[needs(Scope.METRICS), WORK],
    responses=documented(),
)
def list_levers(app_state: CurrentState) -> Levers:
    """Return what the last run of `forecast_costs` found, as `reelkeeper status` and the report show it."""
    with reading(app_state.workspace.engine) as session:
        found = status.levers(session)
    return Levers(
        levers=[
            Lever(
                name=lever.scope,
                title=subject(lever.title),
                evidence=lever.text,
                way=lever.suggestion,
                microusd_a_month=lever.impact_microusd or 0,
                since=lever.first_at,
                found_at=lever.last_at,
            )
            for lever in found
        ]
    )
