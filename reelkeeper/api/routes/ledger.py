"""A user's ledger: every move of credits, for invoices and support."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from reelkeeper.api.app_state import CurrentState, Newest, needs
from reelkeeper.api.load import WORK
from reelkeeper.api.paths import UserId
from reelkeeper.api.problems import documented
from reelkeeper.model.ids import Place
from reelkeeper.model.money import TransferKind
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing.users import moves

router = APIRouter(prefix="/v1/users/{user_id:id}/ledger", tags=["users"])


class LedgerMove(BaseModel):
    """A move of credits. Over all moves, the two changes sum to the user's available and held credits."""

    id: str
    kind: TransferKind
    at: datetime
    amount_microusd: int = Field(description="Amount in micro-dollars; of a capture, what was charged of the hold")
    available_microusd: int = Field(description="Change of the available credits, in micro-dollars")
    held_microusd: int = Field(description="Change of the held credits, in micro-dollars")
    hold_id: str | None = Field(description="Id of the hold that it belongs to; null: a grant")
    job_id: str | None = Field(description="Id of the job that the hold is for; null: for none")
    reason: str = Field(description="Reason of a grant or refund; empty: none was given")


class Moves(BaseModel):
    """A page of a user's ledger, the newest move first."""

    moves: list[LedgerMove]
    after: str | None = Field(description="Value of `after` for the next page; null: last page")


class WantedMoves(Newest):
    """The moves to list."""

    kind: TransferKind | None = Field(None, description="Only those of this kind")


@router.get(
    "",
    summary="List a user's moves of credits",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404, 410),
)
def list_credit_moves(user_id: UserId, app_state: CurrentState, wanted: Annotated[WantedMoves, Query()]) -> Moves:
    """List grants, holds, captures, releases, expiries and refunds with their exact amounts, from one snapshot."""
    engine, most = app_state.workspace.engine, wanted.limit + 1
    found = moves(engine, user_id, kind=wanted.kind, span=wanted.span, limit=most)
    return Moves(
        moves=[LedgerMove.model_validate(move._asdict()) for move in found[: wanted.limit]],
        after=wanted.rest([Place(move.at, move.id) for move in found]),
    )
