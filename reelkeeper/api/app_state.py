"""The state that routes share: one store, one bucket, the policies, and the caller."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Request, Security
from fastapi.security import HTTPBearer
from pydantic import StringConstraints

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.api.load import Load
from reelkeeper.model.access import Caller, Scope
from reelkeeper.operations.core.workspace import Workspace

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]  # as keys are made of them
Note = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]  # what a terminal may print
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="The same key again gives the same answer, and nothing is done twice",
        pattern=r"^[\x21-\x7e]{1,128}$",
        examples=["9b2f0c1e"],
    ),
]
_BEARER: Final = HTTPBearer(auto_error=False, description="A token of `reelkeeper tokens create`.")


@dataclass(frozen=True)
class AppState:
    """A workspace, a scratch folder, and the requests under way in this process, within the limits in force."""

    workspace: Workspace
    scratch: Path
    orchestrator: Orchestrator | None = None
    provider: str = "local"  # who makes what the catalogue names nobody for
    allow_private: bool = False  # whether webhooks may be of our own network
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the limits that were in force when the workspace was opened."""
        object.__setattr__(self, "load", Load(self.workspace.engine, self.workspace.in_force.policies.access))


async def app_state(request: Request) -> AppState:
    """Give the state of the app. It is async, so that no thread is used for it."""
    found: AppState = request.app.state.app_state
    return found


CurrentState = Annotated[AppState, Depends(app_state)]


def needs(scope: Scope) -> Any:  # noqa: ANN401  what FastAPI's Security gives
    """Admit only callers whose token has `scope`; the middleware has checked the token already."""

    async def check(request: Request, _shown: Annotated[object, Security(_BEARER)]) -> Caller:
        caller: Caller = request.state.caller
        # guard auth.scope: a token that may report views asks for videos, and spends credits
        if scope not in caller.scopes:
            has = ", ".join(sorted(caller.scopes))
            raise HTTPException(403, f"this needs the scope {scope}, and token {caller.token_id} has {has}")
        return caller

    checked: Callable[..., Awaitable[Caller]] = check
    return Security(checked, scopes=[scope])  # so that the schema says which
