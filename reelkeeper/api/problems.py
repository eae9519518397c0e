"""Errors over HTTP as problem+json (RFC 9457), with the sentence that the command would print.

Internal errors are logged and not sent, because their texts may name a host or a table.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError, TimeoutError  # noqa: A004  SQLAlchemy's error for an empty pool
from starlette.exceptions import HTTPException

from reelkeeper.api.paths import methods
from reelkeeper.errors import (
    DiskFull,
    Frozen,
    HoldClosed,
    InsufficientCredits,
    IntegrityDoubt,
    KeepRefused,
    KeyReused,
    KeyTaken,
    LeaseLost,
    MediaError,
    ModelRefused,
    NotAVideo,
    NotFound,
    NotPlayable,
    ObjectMissing,
    OnTrial,
    QuotaExceeded,
    ReelkeeperError,
    Refused,
    SchemaError,
    SignatureRefused,
    StorageError,
    StoreBehind,
    TierRefused,
    UserErased,
    VideoHeld,
)
from reelkeeper.redaction import redacted

MEDIA_TYPE: Final = "application/problem+json"
REPLAYED: Final = "Idempotency-Replayed"  # as Stripe marks an answer that a key brings back
_log = logging.getLogger(__name__)
STATUSES: Final[tuple[tuple[type[ReelkeeperError], int, str], ...]] = (  # the first match applies
    (NotFound, 404, "not-found"),
    (NotPlayable, 406, "not-playable"),
    (SignatureRefused, 401, "signature"),
    (KeyReused, 422, "key-reused"),
    (InsufficientCredits, 402, "credits"),
    (QuotaExceeded, 403, "quota"),
    (HoldClosed, 409, "closed"),
    (KeyTaken, 409, "key-taken"),
    (ObjectMissing, 409, "nothing-stored"),
    (LeaseLost, 409, "busy"),
    (VideoHeld, 409, "held"),
    (KeepRefused, 409, "not-kept"),
    (UserErased, 410, "erased"),
    (OnTrial, 409, "trial"),
    (Frozen, 503, "frozen"),
    (StoreBehind, 503, "store-behind"),
    (DiskFull, 503, "full"),
    (SchemaError, 503, "schema"),
    (ModelRefused, 422, "model"),
    (TierRefused, 422, "tier"),
    (NotAVideo, 422, "not-a-video"),
    (Refused, 422, "refused"),
    (StorageError, 502, "storage"),
    (IntegrityDoubt, 500, "integrity"),
    (MediaError, 500, "media"),
)
_REMEDIES: Final = {kind: error.operator_remedy for error, _, kind in STATUSES if issubclass(error, Refused)}
_TITLES: Final = {
    400: "The request cannot be parsed",
    401: "Authentication required",
    402: "Not enough credits",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not playable by the client",
    408: "The request arrived too slowly",
    409: "Conflict with the current state",
    410: "The user was erased",
    413: "The request body is too large",
    422: "The request cannot be carried out",
    429: "Too many requests",
    500: "Internal error",
    502: "The object storage failed",
    503: "Temporarily unavailable",
}
_BARE: Final = {
    "Not Found": "there is no route {path!r}; /openapi.json lists all",
    "Method Not Allowed": "{path!r} does not accept {method}; the header Allow lists what it does",
    "There was an error parsing the body": "the body is not JSON in UTF-8, or nested too deeply; nothing was changed",
}
_NOT_JSON: Final = "The body was not sent as JSON, with `Content-Type: application/json`"
_MAX_PATH: Final = 200
_NO_METHOD: Final = 405
_OURS: Final = 500  # and above: the answer has no details
_WAIT_SECONDS: Final = {"busy": "5", "frozen": "30", "store-behind": "30"}  # other refusals do not pass by waiting


class Fault(BaseModel):
    """One validation error of a request."""

    where: str = Field(description="The invalid field, such as body.user_id")
    what: str = Field(description="The error")


class Problem(BaseModel):
    """The description of an error (RFC 9457)."""

    type: str = Field(description="Machine-readable identifier of the problem, such as urn:reelkeeper:quota")
    title: str = Field(description="Human-readable summary of the problem type")
    status: int = Field(description="HTTP status code")
    detail: str = Field(description="Explanation of this occurrence, with its figures")
    operator: str | None = Field(None, description="What the operator of the service can do; not meant for its users")
    faults: list[Fault] | None = Field(None, description="Validation errors, one per field")


def described(status: int, kind: str, detail: str, faults: Sequence[Fault] = ()) -> Problem:
    """Describe an error, as `problem` answers it."""
    return Problem(
        type=f"urn:reelkeeper:{kind}",
        title=_TITLES.get(status, "The request failed"),
        status=status,
        detail=detail,
        operator=_REMEDIES.get(kind) or None,
        faults=list(faults) or None,
    )


def problem(
    status: int, kind: str, detail: str, *, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Build the answer to a failed request."""
    body = described(status, kind, detail, faults)
    return JSONResponse(body.model_dump(exclude_none=True), status, dict(headers or {}), MEDIA_TYPE)


def documented(*statuses: int, words: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for these statuses and those common to all routes; `words` replaces descriptions."""
    schema, words = {"$ref": "#/components/schemas/Problem"}, words or {}
    return {
        status: {"description": words.get(status, _TITLES[status]), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({400, 401, 403, 408, 413, 422, 429, 500, 503, *statuses})
    }


def answer_errors(app: FastAPI) -> None:
    """Answer every error of the app with a problem."""
    app.add_exception_handler(ReelkeeperError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(OperationalError, _store_away)
    app.add_exception_handler(TimeoutError, _store_away)
    app.add_exception_handler(Exception, unforeseen)


def _ours(_request: Request, error: Exception) -> JSONResponse:
    status, kind = next(((s, k) for cls, s, k in STATUSES if isinstance(error, cls)), (500, "failed"))
    if status >= _OURS and not isinstance(error, Frozen | StoreBehind):
        _log.error("%s", redacted(str(error)), exc_info=error)
        # guard secrets.errors: an internal error shows callers the names of hosts and tables
        return problem(status, kind, "An internal error occurred, and was logged.")
    headers = {"Retry-After": _WAIT_SECONDS[kind]} if kind in _WAIT_SECONDS else None
    # guard secrets.refusals: a refusal shows callers a secret that its text contains
    return problem(status, kind, redacted(str(error)), headers=headers)


def _http(request: Request, error: Exception) -> Response:
    status, detail = getattr(error, "status_code", 500), str(getattr(error, "detail", ""))
    headers = getattr(error, "headers", None)
    if status == _NO_METHOD:
        headers = {"Allow": ", ".join(methods(request))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    if detail in _BARE:  # as the framework words them: neither values nor a way out
        detail = _BARE[detail].format(method=request.method, path=_printable(request.url.path)[:_MAX_PATH])
    return problem(status, getattr(error, "kind", "http"), detail, headers=headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if "json" not in request.headers.get("content-type", ""):  # then the framework takes the body for a text
        found = [item | ({"msg": _NOT_JSON} if item.get("type") == "model_attributes_type" else {}) for item in found]
    faults = [Fault(where=".".join(map(str, item["loc"])), what=_printable(str(item["msg"]))) for item in found]
    wrong = "a field is" if len(faults) == 1 else f"{len(faults)} fields are"
    return problem(422, "invalid", f"{wrong} invalid; nothing was changed", faults=faults)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON can contain half of a surrogate pair, UTF-8 cannot


def _store_away(_request: Request, error: Exception) -> JSONResponse:
    _log.error("the store did not answer", exc_info=error)
    return problem(503, "store", "The store does not answer, or is busy; try again.", headers={"Retry-After": "1"})


def unforeseen(_request: Request, _error: Exception) -> JSONResponse:
    """Answer an error that nobody has foreseen."""
    # the server logs it, which raises it again
    return problem(500, "unforeseen", "An internal error occurred, and was logged.")
