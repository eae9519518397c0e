"""Is it alive, can it work, and how does it do."""

from typing import Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from reelkeeper.api.backing import Stands, needs
from reelkeeper.api.problems import MEDIA_TYPE, documented, problem
from reelkeeper.model.access import Scope
from reelkeeper.operations.freeze import why_frozen
from reelkeeper.store.engine import reading

router = APIRouter(tags=["health"])
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
    frozen: bool = Field(description="Changes are stopped: what is read works, what changes anything gives 503")


@router.get("/healthz", summary="Is the process alive?")
def healthz() -> Health:
    """Answer; nothing else is asked."""
    return Health()


@router.get("/readyz", summary="Does the store answer?", responses=_AWAY, response_model=Readiness)
def readyz(stands: Stands) -> Readiness | JSONResponse:
    """Ask the store."""
    try:
        with reading(stands.depot.engine) as session:
            session.execute(sa.select(1))
        return Readiness(frozen=why_frozen(stands.depot.engine) is not None)
    except sa.exc.SQLAlchemyError:
        return problem(503, "store", "The store does not answer.", headers={"Retry-After": "5"})


@router.get(
    "/v1/metrics",
    summary="Figures for Prometheus",
    dependencies=[needs(Scope.METRICS)],
    responses=documented(),
    response_class=PlainTextResponse,
)
def metrics(request: Request) -> Response:
    """Give the figures of this process and of the whole service, in Prometheus's text."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
