"""Say which vendor may charge for a job that brought no video, by how it ended; where it is not known, it may.

Only a vendor's own word about a job, such as its cost or its billed units, goes before this table.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from reelkeeper.errors import (
    ContentRefused,
    GenerationCancelled,
    GenerationFailed,
    GenerationInterrupted,
    GenerationLost,
    GenerationRefused,
    NotAVideo,
    ProviderBusy,
    ResultUnreadable,
)


class Ending(StrEnum):
    """How a request ended that was sent to a vendor, and brought no video."""

    NOT_TAKEN = "not taken"  # refused in answer to the request itself: no job was made
    FAILED = "failed"
    REFUSED = "refused"  # taken, then refused for its input
    MODERATED = "moderated"  # taken, then refused for its content
    CANCELLED = "cancelled"  # when it had started, or nobody can say
    LOST = "lost"  # made, or taken, and the vendor no longer has it
    IN_DOUBT = "in doubt"  # whether it was taken, or how it ended, was never learned
    ABSENT = "absent"  # a day after it was sent, the vendor's list of what it received does not have it
    UNREADABLE = "unreadable"  # made, but what was fetched is no video


_BY_ERROR: Final = {
    GenerationCancelled: Ending.CANCELLED,
    ContentRefused: Ending.MODERATED,
    GenerationRefused: Ending.REFUSED,
    GenerationLost: Ending.LOST,
    GenerationInterrupted: Ending.CANCELLED,
    GenerationFailed: Ending.FAILED,
    NotAVideo: Ending.UNREADABLE,
    ResultUnreadable: Ending.UNREADABLE,
}


def ending_of(error: Exception, *, was_named: bool) -> Ending:
    """Tell how a job ended at its vendor. A refusal before the vendor named the job is an answer to the request."""
    if isinstance(error, ProviderBusy) or (isinstance(error, GenerationRefused) and not was_named):
        return Ending.NOT_TAKEN
    return next((ending for kind, ending in _BY_ERROR.items() if isinstance(error, kind)), Ending.IN_DOUBT)


class Charge(StrEnum):
    """Whether a vendor charges."""

    NO = "no"
    MAYBE = "may"
    YES = "yes"


class Charged(NamedTuple):
    """A row of the table, with the page that it was read from and when."""

    charge: Charge
    source: str
    read_on: str


def _read(charge: Charge, source: str, read_on: str = "2026-11-28") -> Charged:
    return Charged(charge, source, read_on)


_NO, _MAYBE, _YES = Charge.NO, Charge.MAYBE, Charge.YES
_UNKNOWN: Final = "no vendor's page says: it may have been made"
_FAL_FAQ: Final = "fal.ai/docs/model-apis/faq"
_RUNWAY_TASKS: Final = "docs.dev.runwayml.com: a task's cost is net of refunds; without it, nothing is known"
_RUNWAY_MODERATION: Final = "docs.dev.runwayml.com/api-details/moderation"
_REPLICATE: Final = "replicate.com/docs: whether a failed prediction of an official model is charged is not said"
_REPLICATE_DEADLINES: Final = "replicate.com/changelog/2025-10-16-prediction-deadlines"
_GATEWAYS: Final = "LiteLLM 1.110.2, litellm_core_utils: a video is booked when it is created, however it ends"
_OPENROUTER: Final = (
    "openrouter.ai/docs/api_reference/videos: usage.cost once a job is completed, and no word on others"
)
_OWN: Final = "a server of one's own: nobody bills a run of it that brings nothing"

# A new job's POST that is answered by a 4xx makes no job, at any vendor: adapters/providers/transport.
_NOT_TAKEN: Final = _read(_NO, "every vendor's page on errors: no job was made")
_ANYWHERE: Final = {
    Ending.NOT_TAKEN: _NOT_TAKEN,
    Ending.IN_DOUBT: _read(_MAYBE, _UNKNOWN),
    Ending.ABSENT: _read(_MAYBE, _UNKNOWN),
    Ending.LOST: _read(_MAYBE, _UNKNOWN),
    Ending.CANCELLED: _read(_MAYBE, _UNKNOWN),
    Ending.UNREADABLE: _read(_YES, "it was made"),
}
TABLE: Final[dict[str, dict[Ending, Charged]]] = {
    "fal": _ANYWHERE
    | {
        Ending.ABSENT: _read(
            _NO, "fal.ai/docs/platform-apis/v1/models/requests/by-endpoint: the ended ones of a period"
        ),
        Ending.FAILED: _read(_NO, f"{_FAL_FAQ}: a 5xx and time in the queue are never charged"),
        Ending.REFUSED: _read(_MAYBE, f"{_FAL_FAQ}: a 422 may be charged if a runner spent GPU time"),
        Ending.MODERATED: _read(_MAYBE, f"{_FAL_FAQ}: a content refusal is a 422"),
    },
    "replicate": _ANYWHERE
    | {
        Ending.ABSENT: _read(_NO, "replicate.com/docs/reference/http, predictions.list: all predictions, newest first"),
        Ending.FAILED: _read(_MAYBE, _REPLICATE),
        Ending.REFUSED: _read(_MAYBE, _REPLICATE),
        Ending.MODERATED: _read(_MAYBE, _REPLICATE),
        Ending.CANCELLED: _read(_MAYBE, f"{_REPLICATE_DEADLINES}: canceled is charged, aborted before its start not"),
    },
    "runway": _ANYWHERE
    | {
        Ending.FAILED: _read(_MAYBE, _RUNWAY_TASKS),
        Ending.REFUSED: _read(_MAYBE, _RUNWAY_TASKS),
        Ending.MODERATED: _read(_YES, f"{_RUNWAY_MODERATION}: a moderated generation costs as much as a good one"),
        Ending.CANCELLED: _read(_MAYBE, "runwayml 5.24.0, tasks.delete: refunded only if it was not running yet"),
    },
    "openrouter": _ANYWHERE
    | {
        Ending.FAILED: _read(_MAYBE, _OPENROUTER, "2026-11-29"),
        Ending.REFUSED: _read(_MAYBE, _OPENROUTER, "2026-11-29"),
        Ending.MODERATED: _read(_MAYBE, _OPENROUTER, "2026-11-29"),
    },
    "openai": _ANYWHERE
    | {
        Ending.FAILED: _read(_MAYBE, _GATEWAYS),
        Ending.REFUSED: _read(_MAYBE, _GATEWAYS),
        Ending.MODERATED: _read(_MAYBE, _GATEWAYS),
    },
    "http": _ANYWHERE
    | {
        Ending.ABSENT: _read(_NO, _OWN),
        Ending.FAILED: _read(_NO, f"{_OWN}; it reports `cost_usd` where it does"),
        Ending.REFUSED: _read(_NO, f"{_OWN}; it reports `cost_usd` where it does"),
        Ending.MODERATED: _read(_NO, f"{_OWN}; it reports `cost_usd` where it does"),
    },
    "comfyui": _ANYWHERE
    | {
        Ending.ABSENT: _read(_NO, _OWN),
        Ending.FAILED: _read(_NO, _OWN),
        Ending.REFUSED: _read(_NO, _OWN),
        Ending.MODERATED: _read(_NO, _OWN),
    },
    "local": dict.fromkeys(Ending, _read(_NO, "this machine")),
}


def may_be_charged(provider: str | None, ending: Ending) -> bool:
    """Check whether a vendor may charge for a job that ended so; an unknown vendor may, for whatever it took.

    >>> may_be_charged("fal", Ending.FAILED), may_be_charged("fal", Ending.MODERATED)
    (False, True)
    >>> may_be_charged("another", Ending.FAILED), may_be_charged("another", Ending.NOT_TAKEN)
    (True, False)
    """
    row = TABLE.get(provider or "", {}).get(ending)
    # guard spend.unknown_vendor: what a vendor without a row charges for failed jobs counts in no budget
    return ending is not Ending.NOT_TAKEN if row is None else row.charge is not Charge.NO
