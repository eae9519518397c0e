"""Users: what they store and may spend, and whether more would fit."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, Id, needs
from reelkeeper.api.load import WORK
from reelkeeper.api.problems import documented
from reelkeeper.errors import NotFound
from reelkeeper.model.access import Scope
from reelkeeper.operations.billing.quota import check_user_storage_quota
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.billing.quota import MAX_BYTES, judge
from reelkeeper.store.billing import ledger, quotas
from reelkeeper.store.core.engine import reading

router = APIRouter(prefix="/v1", tags=["users"])


class User(BaseModel):
    """A user as the catalogue knows them."""

    id: str
    tier: str | None = Field(description="null: unknown; nothing new can be stored then")
    used_bytes: int
    reserved_bytes: int = Field(description="Promised to uploads and jobs under way")
    quota_bytes: int | None = Field(description="null where the tier is unknown")
    available_microusd: int = Field(description="Credits to spend, in millionths of a dollar")
    held_microusd: int = Field(description="Credits set aside for jobs under way")
    spent_microusd: int


class Question(BaseModel):
    """So many more bytes, which may fit or not."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "ann", "incoming_bytes": 30_000_000}]}
    )

    user_id: Id
    incoming_bytes: int = Field(ge=0, le=MAX_BYTES, strict=True)


class Answer(BaseModel):
    """Whether they would, at this moment. Reserve bytes by beginning an upload."""

    can_upload: bool
    usage_bytes: int
    reserved_bytes: int
    quota_bytes: int | None
    reason: str = Field(description="For the user to read")


@router.get(
    "/users/{user_id}",
    summary="What a user stores and may spend",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404),
)
def user(user_id: Annotated[Id, Path(examples=["ann"])], app_state: CurrentState) -> User:
    """Read tier, bytes and credits from one snapshot."""
    with reading(app_state.workspace.engine) as session:
        standing = quotas.standing(session, user_id)
        if standing is None:
            raise NotFound(f"no user {user_id!r} in the catalogue")
        balance = ledger.balance(session, user_id)
        told = judge(standing, 0, in_force(session).policies.quota)
    return User(
        id=user_id,
        tier=standing.tier,
        used_bytes=told.usage_bytes,
        reserved_bytes=told.reserved_bytes,
        quota_bytes=told.quota_bytes,
        **balance._asdict(),
    )


@router.post(
    "/quota/check",
    summary="Would so many more bytes fit?",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404),
)
def check(asked: Question, app_state: CurrentState) -> Answer:
    """Tell whether they would fit at this moment; nothing is reserved."""
    answer = check_user_storage_quota(app_state.workspace.engine, asked.user_id, asked.incoming_bytes)
    return Answer(**asdict(answer))
