"""The state that all routes share, and the check of the caller's scope."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.api.delivering import Delivering
from reelkeeper.api.load import Load
from reelkeeper.errors import OnTrial
from reelkeeper.model.ids import Id, Place, Span
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.workspace import Workspace


def _written(at: object) -> object:
    try:
        float(at)  # type: ignore[arg-type]  # whatever JSON, or a query, has
    except (TypeError, ValueError):
        return at
    except OverflowError:  # a whole number of 309 digits and more
        pass
    # guard holds.moment: a number is taken for seconds since 1970, and a hold ends fifty years before it begins
    raise ValueError("a time is written as in 2026-11-01T00:00:00Z")


def _representable(at: datetime) -> datetime:
    try:
        at.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC, it is not between the years 1 and 9999") from None
    return at


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_representable)]
Note = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]  # no control characters: terminals print it
Reason = Annotated[Note, StringConstraints(strip_whitespace=True, min_length=1)]
_KeyHeader = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with the same key returns the same answer, and nothing is done twice",
        pattern=r"^[\x21-\x7e]{1,128}$",
        examples=["9b2f0c1e"],
    ),
]


async def _only_key(request: Request, key: _KeyHeader) -> str:
    # guard auth.only_key: one of two keys is ignored, and a repetition with that one is done and charged again
    if len(set(request.headers.getlist("Idempotency-Key"))) > 1:
        error = {"loc": ("header", "Idempotency-Key"), "msg": "It was sent several times, with different values"}
        raise RequestValidationError([error])
    request.state.replays = replays.listen()
    return key


# What callers with these scopes do, reading apart, ends in the bucket.
_CHANGE_BUCKET: Final = {Scope.JOBS, Scope.UPLOADS, Scope.DELETIONS, Scope.TAKEDOWNS, Scope.HOLDS, Scope.ERASE}

IdempotencyKey = Annotated[str, Depends(_only_key)]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Whose(BaseModel):
    """An optional condition. Other parameters are refused, so that a misspelt condition is not ignored."""

    model_config = ConfigDict(extra="forbid")

    user_id: Id | None = Field(None, description="Only if it belongs to this user", examples=["ann"])


class Newest(BaseModel):
    """The part to return of a list that begins with the newest."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(None, description="Only from this time on", examples=["2026-11-01T00:00:00Z"])
    until: Moment | None = Field(None, description="Only before this time")
    after: str | None = Field(
        None,
        pattern=r"^[0-9]{1,17}-[0-9a-f]{32}$",
        description="`after` of the previous page; unset: first page",
    )
    limit: int = Field(100, ge=1, le=500)

    @property
    def span(self) -> Span:
        """The times, and the place in the list, to read from."""
        micros, _, row_id = (self.after or "").partition("-")
        place = Place(_EPOCH + timedelta(microseconds=int(micros)), row_id) if row_id else None
        return Span(self.since, self.until, place)

    def rest(self, places: Sequence[Place]) -> str | None:
        """Name the place of the last of this page, if there is one behind it."""
        last = places[self.limit - 1] if len(places) > self.limit else None
        return last and f"{(last.at - _EPOCH) // timedelta(microseconds=1)}-{last.id}"


_BEARER: Final = HTTPBearer(auto_error=False, description="A token made by `reelkeeper tokens create`.")


@dataclass(frozen=True)
class AppState:
    """The workspace, a scratch folder, and the current load of this process with its limits."""

    workspace: Workspace
    scratch: Path
    orchestrator: Orchestrator | None = None
    provider: str | None = "local"  # provider of the models for which the catalogue names none
    allow_private: bool = False  # whether webhook URLs may have private addresses
    cors_origins: tuple[str, ...] = ()  # of web pages that a browser lets call the API
    delivering: Delivering | None = None
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        """Start with the limits that were in force when the workspace was opened."""
        object.__setattr__(self, "load", Load(self.workspace.engine, self.workspace.in_force.policies.access))


async def app_state(request: Request) -> AppState:
    """Return the state of the app. Async, so that it takes no thread."""
    found: AppState = request.app.state.app_state
    return found


CurrentState = Annotated[AppState, Depends(app_state)]


def needs(scope: Scope) -> Any:  # noqa: ANN401  FastAPI's Security returns Any
    """Admit only callers whose token has `scope`; the middleware has checked the token already."""

    async def check(request: Request, _shown: Annotated[object, Security(_BEARER)]) -> Caller:
        caller: Caller = request.state.caller
        # guard auth.scope: a token made only to report views can request videos, and spends credits
        if scope not in caller.scopes:
            has = ", ".join(sorted(caller.scopes))
            raise HTTPException(403, f"this request needs the scope {scope}, but token {caller.token_id} has {has}")
        state: AppState = request.app.state.app_state
        # guard trial.api: a service sells videos, or deletes some, in a trial
        if state.workspace.on_trial and scope in _CHANGE_BUCKET and request.method not in {"GET", "HEAD"}:
            raise OnTrial
        return caller

    checked: Callable[..., Awaitable[Caller]] = check
    return Security(checked, scopes=[scope])  # so that the schema names the scope
