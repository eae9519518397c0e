"""Users: tier, storage, credits and videos, and whether more bytes fit the quota."""

from dataclasses import asdict
from datetime import date, datetime
from itertools import groupby
from operator import attrgetter
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, IdempotencyKey, Reason, needs
from reelkeeper.api.load import WORK, WRITE
from reelkeeper.api.paths import UserId
from reelkeeper.api.problems import documented
from reelkeeper.errors import NotFound
from reelkeeper.model.ids import Id
from reelkeeper.model.money import AccountKind, QuotaUse, next_month
from reelkeeper.model.requests import Whole
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations import reading
from reelkeeper.operations.billing import users as accounts
from reelkeeper.operations.billing.quota import check_user_storage_quota
from reelkeeper.operations.core.either_id import for_user
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.lifecycle.why import outlooks
from reelkeeper.rules.billing.focus import provider_name
from reelkeeper.rules.billing.quota import judge
from reelkeeper.rules.core.tiers import MAX_BYTES, Tiers
from reelkeeper.store.billing import ledger, quotas
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.videos.videos import is_user, list_videos

router = APIRouter(prefix="/v1", tags=["users"])


class ListedUser(BaseModel):
    """A user in the catalogue."""

    id: str
    tier: str | None = Field(description="Tier of the user; null: unknown, so nothing new can be stored")
    used_bytes: int
    reserved_bytes: int = Field(description="Bytes reserved for uploads and jobs in progress")
    quota_bytes: int | None = Field(description="Storage quota in bytes; null if the tier is unknown")
    available_microusd: int = Field(description="Available credits, in micro-dollars")
    held_microusd: int = Field(description="Credits held for jobs in progress, in micro-dollars")

    @classmethod
    def of(cls, use: QuotaUse, tiers: Tiers, **microusd: int) -> Self:
        """Build the answer from what is recorded about a user."""
        quota = judge(use, 0, tiers)
        return cls(
            id=use.user_id,
            tier=use.tier,
            used_bytes=quota.usage_bytes,
            reserved_bytes=quota.reserved_bytes,
            quota_bytes=quota.quota_bytes,
            **microusd,
        )


class User(ListedUser):
    """A user in the catalogue, and what the user has spent."""

    spent_microusd: int = Field(description="Credits captured and not refunded, in micro-dollars")


class Question(BaseModel):
    """A number of bytes to check against a user's quota."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "ann", "incoming_bytes": 30_000_000}]}
    )

    user_id: Id
    incoming_bytes: Whole = Field(ge=0, le=MAX_BYTES)


class Answer(BaseModel):
    """The result of checking whether bytes fit into a quota now. To reserve bytes, begin an upload."""

    can_upload: bool
    usage_bytes: int
    reserved_bytes: int
    quota_bytes: int | None
    reason: str = Field(description="Explanation for the user")


class Page(BaseModel):
    """The page of a list to return."""

    model_config = ConfigDict(extra="forbid")

    after: Id | None = Field(None, description="`after` of the previous page; unset: first page")
    limit: int = Field(100, ge=1, le=500)


class Users(BaseModel):
    """A page of users, in order of their ids."""

    users: list[ListedUser]
    after: str | None = Field(description="Value of `after` for the next page; null: last page")


@router.get(
    "/users",
    summary="List users with their storage and credits",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(),
)
def list_users(app_state: CurrentState, page: Annotated[Page, Query()]) -> Users:
    """List the users with their bytes and credits, read from one snapshot; users who are being erased are left out."""
    with reading(app_state.workspace.engine) as session:
        found = quotas.uses(session, page.after or "", page.limit + 1)
        shown, tiers = found[: page.limit], in_force(session).policies.tiers
        has = ledger.balances(session, [use.user_id for use in shown])
    return Users(
        users=[
            ListedUser.of(
                use,
                tiers,
                available_microusd=has.get((use.user_id, AccountKind.USER), 0),
                held_microusd=has.get((use.user_id, AccountKind.HELD), 0),
            )
            for use in shown
        ],
        after=shown[-1].user_id if len(found) > page.limit else None,
    )


@router.get(
    "/users/{user_id:id}",
    summary="Get a user's storage and credits",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404),
)
def get_user(user_id: UserId, app_state: CurrentState) -> User:
    """Return the user's tier, bytes and credits, read from one snapshot."""
    with reading(app_state.workspace.engine) as session:
        user_id = known_user(session, user_id)
        used = quotas.use_of(session, user_id)
        if used is None:
            raise NotFound(f"no user {user_id!r} in the catalogue")
        balance = ledger.balance(session, user_id)
        return User.of(used, in_force(session).policies.tiers, **balance._asdict())


class Tiered(BaseModel):
    """The tier to set for a user."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"tier": "premium"}]})

    tier: str = Field(max_length=100, description="One of the `tiers` in the policies in force")


@router.put(
    "/users/{user_id:id}",
    summary="Create a user, or set a user's tier",
    dependencies=[WRITE],
    responses=documented(410),
)
def put_user(
    user_id: UserId,
    body: Tiered,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.ACCOUNTS)],
) -> User:
    """Create the user, or change the tier: its retention and quota apply from now on. Safe to repeat.

    A tier that is not in force is refused, and the answer lists those that are.
    """
    accounts.put(app_state.workspace.engine, user_id, body.tier, by=caller.name)
    return get_user(user_id, app_state)


class Credits(BaseModel):
    """Credits to grant or refund."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"amount_microusd": 5_000_000, "reason": "order 1234"}]}
    )

    amount_microusd: Whole = Field(ge=1, le=10**12, description="Amount in micro-dollars")
    reason: Reason = Field("", description="Reason, kept in the ledger; unset: none")
    hold_id: str | None = Field(
        None,
        pattern="^[0-9a-f]{32}$",
        description="Id of a hold: refund from the credits that were captured of it; unset: grant new credits",
    )


class Given(BaseModel):
    """A credit transaction, and the user's balance after it."""

    id: str
    kind: str = Field(description="grant or refund")
    amount_microusd: int
    at: datetime
    available_microusd: int
    held_microusd: int
    spent_microusd: int


@router.post(
    "/users/{user_id:id}/credits",
    summary="Grant credits, or refund a job",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(404, 410),
)
def give_credits(
    user_id: UserId,
    body: Credits,
    key: IdempotencyKey,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.ACCOUNTS)],
) -> Given:
    """Add credits to the user's balance, once per idempotency key."""
    moved, balance = accounts.give(
        app_state.workspace.engine,
        user_id,
        body.amount_microusd,
        key,
        by=caller.name,
        reason=body.reason,
        hold_id=body.hold_id,
    )
    return Given.model_validate(moved._asdict() | balance._asdict())


class OwnVideo(BaseModel):
    """One of a user's videos."""

    id: str
    state: str = Field(description="pending, live, retired, gone or lost")
    size_bytes: int | None
    created_at: datetime | None
    views: int | None = Field(description="Number of all recorded views; null: unknown")
    expires_at: datetime | None = Field(
        description="When the video may be retired or, if it is already retired, purged, if views and holds do not "
        "change until then"
    )
    why: str = Field(description="Why the video will be retired or purged, or why not")
    tag: str | None = Field(description="Tag given with the job or upload, for lifecycle segments")


class OwnVideos(BaseModel):
    """A page of a user's videos, in order of their ids."""

    videos: list[OwnVideo]
    after: str | None = Field(description="Value of `after` for the next page; null: last page")


@router.get(
    "/users/{user_id:id}/videos",
    summary="List a user's videos with their expiry",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404, 410),
)
def list_user_videos(
    user_id: UserId,
    app_state: CurrentState,
    page: Annotated[Page, Query()],
) -> OwnVideos:
    """List the user's videos from one snapshot, each with what the policies in force will do to it, and when."""
    with reading(app_state.workspace.engine) as session:
        user_id = known_user(session, user_id)
        found = list_videos(session, user_id=user_id, after=page.after or "", limit=page.limit + 1)
        if not found and not is_user(session, user_id):
            raise NotFound(f"no user {user_id!r} in the catalogue")
        listed = [
            OwnVideo.model_validate(video._asdict() | {"expires_at": expires_at, "why": why})
            for video, expires_at, why in outlooks(session, found[: page.limit], app_state.workspace)
        ]
    return OwnVideos(videos=listed, after=listed[-1].id if len(found) > page.limit else None)


class Months(BaseModel):
    """The months to return."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(
        None,
        pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$",
        description="`after` of the previous page; unset: from the first month",
    )
    limit: int = Field(12, ge=1, le=120)


class ProviderCost(BaseModel):
    """The cost of a user in one month at one provider, in billionths of a dollar."""

    provider: str = Field(description="`Cloudflare` for R2, or the provider that made the user's jobs")
    list_nanousd: int = Field(description="At the price list or, for jobs, the price book")
    billed_nanousd: int = Field(description="As billed or, for jobs, as their provider reported it, if that is less")
    estimated: bool = Field(description="Whether part of it is based on incomplete usage")


class MonthCost(BaseModel):
    """The cost of a user to the service in one calendar month (UTC)."""

    month: str = Field(description="YYYY-MM")
    list_nanousd: int
    billed_nanousd: int
    providers: list[ProviderCost]


class UserCosts(BaseModel):
    """A page of what a user cost, by month, the oldest first. Months without a charge are left out."""

    months: list[MonthCost]
    after: str | None = Field(description="Value of `after` for the next page; null: last page")
    charged_at: datetime | None = Field(
        description="When `monitor_costs` last charged usage, as it does each hour: later usage is not in the sums. "
        "null: never, so they are not known yet"
    )


@router.get(
    "/users/{user_id:id}/costs",
    summary="Get what a user cost, by month and provider",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404, 410),
)
def get_user_costs(
    user_id: UserId,
    app_state: CurrentState,
    page: Annotated[Months, Query()],
) -> UserCosts:
    """List what the user's storage and jobs cost the service, as `reelkeeper bill --by user` sums it."""
    first = next_month(date.fromisoformat(f"{page.after}-01")) if page.after else date.min
    sums, has_more, charged_at = accounts.costs(app_state.workspace.engine, user_id, first, page.limit)
    months = [
        MonthCost(
            month=f"{month:%Y-%m}",
            list_nanousd=sum(part.list_nanousd for part in parts),
            billed_nanousd=sum(part.billed_nanousd for part in parts),
            providers=[
                ProviderCost.model_validate(part._asdict() | {"provider": provider_name(part.provider)})
                for part in parts
            ],
        )
        for month, parts in ((month, [*group]) for month, group in groupby(sums, key=attrgetter("month")))
    ]
    return UserCosts(months=months, after=months[-1].month if has_more else None, charged_at=charged_at)


@router.post(
    "/quota/check",
    summary="Check whether a number of bytes fits a user's quota",
    dependencies=[needs(Scope.USERS), WORK],
    responses=documented(404),
)
def check_quota(body: Question, app_state: CurrentState) -> Answer:
    """Check whether the bytes fit at this moment; nothing is reserved."""
    engine, more = app_state.workspace.engine, body.incoming_bytes
    answer = for_user(engine, body.user_id, lambda user_id: check_user_storage_quota(engine, user_id, more))
    return Answer(**asdict(answer))
