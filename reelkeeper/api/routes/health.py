"""Is it alive, can it work, and how does it do."""

import asyncio
from typing import Any, Final, Literal

import sqlalchemy as sa
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from reelkeeper.api.app_state import needs
from reelkeeper.api.load import WORK
from reelkeeper.api.problems import MEDIA_TYPE, documented, problem
from reelkeeper.model.access import Scope
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.store.core.engine import reading

router = APIRouter(tags=["health"])
_READY_SECONDS: Final = 4.0  # for the store to answer; probes commonly wait 5
_AWAY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The store does not answer",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


class Health(BaseModel):
    """A process that answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """A process whose store answers."""

    status: Literal["ready"] = "ready"
    frozen: bool = Field(description="Changes are stopped: reads work, and everything that changes data gives 503")


class Asking:
    """Queries the store in one thread for all callers: a store that hangs blocks no more than that."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._asked: asyncio.Task[Readiness] | None = None

    async def answer(self) -> Readiness:
        """Return the store's answer. Raises SQLAlchemyError, or TimeoutError where it takes too long."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(run_sync(_look, self._engine))
        async with asyncio.timeout(_READY_SECONDS):
            return await asyncio.shield(self._asked)


def _look(engine: sa.Engine) -> Readiness:
    with reading(engine) as session:
        session.execute(sa.select(1))
    return Readiness(frozen=why_frozen(engine) is not None)


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answer; nothing else is asked, and no thread is waited for."""
    return Health()


@router.get("/readyz", summary="Does the store answer?", responses=_AWAY, response_model=Readiness)
async def readyz(request: Request) -> Readiness | JSONResponse:
    """Ask the store; no turn is waited for."""
    try:
        asking: Asking = request.app.state.readiness
        return await asking.answer()
    except (sa.exc.SQLAlchemyError, TimeoutError):
        return problem(503, "store", "The store does not answer.", headers={"Retry-After": "5"})


@router.get(
    "/v1/metrics",
    summary="Metrics for Prometheus",
    dependencies=[needs(Scope.METRICS), WORK],
    responses=documented(),
    response_class=PlainTextResponse,
)
def metrics(request: Request) -> Response:
    """Give the figures of this process and of the whole service, in Prometheus's text."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
