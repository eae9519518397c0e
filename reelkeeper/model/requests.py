"""Generation requests, validated and in canonical form, and the answers to them."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from reelkeeper.model.jobs import JobState

_PARAMETERS = 32  # maximum number in a request
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[\w./:-]+$")]
TAG_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Tag = Annotated[str, StringConstraints(pattern=TAG_PATTERN)]  # of a video, given with its job or upload
_KEY: Final = r"^[A-Za-z0-9_.-]{1,40}$"
_NO_NUL: Final = r"^[^\x00]*$"
_Text = Annotated[str, StringConstraints(max_length=500, pattern=_NO_NUL)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(pattern=_KEY)], _Text],
    WithJsonSchema(  # pydantic's own allows any other key
        {
            "type": "object",
            "maxProperties": 20,
            "propertyNames": {"pattern": _KEY},
            "additionalProperties": {"type": "string", "maxLength": 500, "pattern": _NO_NUL},
        }
    ),
    Field(
        max_length=20,
        description="Texts of your own, by key: at most 20 keys of 1 to 40 letters, digits and `_.-`, each with at "
        "most 500 characters. They are returned with the job and in its events, and are not part of the request",
        examples=[{"order": "1234"}],
    ),
]
WebhookUrl = Annotated[
    str,
    StringConstraints(max_length=2_000, pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[\x21-\x5b\x5d-\x7e]*)?$"),
]
_EXACT: Final = 2**53  # from here on, a float may be another number than the one that was sent


_FIRST_MADE: Final = datetime(2000, 1, 1, tzinfo=UTC)  # what was never set is of the year 1, 1970 or the like


def made_at(at: datetime) -> datetime:
    """Return the time when a video was made, as somebody gave it. Raises ValueError for one that was never set."""
    # guard imports.never_set: an empty time counts as a great age, and new videos are retired in the first night
    if at < _FIRST_MADE:
        raise ValueError("is before 2000, as a time that was never set: leave it out where it is unknown")
    return at


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


# Neither a text nor yes or no, and nothing is rounded; but 3.0 is a whole number in JSON, as its schema has it.
Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Value = str | int | float | bool | None
_PARAMETERS_SCHEMA: Final = {
    "type": "object",
    "maxProperties": _PARAMETERS,
    "propertyNames": {"minLength": 1, "maxLength": 100, "pattern": _NO_NUL},
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "maxLength": 1_000, "pattern": _NO_NUL},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
        ]
    },
}


class GenerationRequest(BaseModel):
    """A request for one video. Two equal requests ask for the same video."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: Name = Field(description="Name of the model")
    model_version: str = Field("", max_length=100, pattern=_NO_NUL, description="Version of the model")
    prompt: str = Field(min_length=1, max_length=10_000, pattern=_NO_NUL, description="What the video should show")
    negative_prompt: str = Field("", max_length=10_000, pattern=_NO_NUL, description="What the video should not show")
    image_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the input image")
    width: Whole = Field(1280, ge=64, le=4096, multiple_of=2, description="Width in pixels")
    height: Whole = Field(720, ge=64, le=4096, multiple_of=2, description="Height in pixels")
    duration_seconds: float = Field(5.0, ge=0.5, le=120, description="Length of the video, in seconds")
    fps: Whole = Field(24, ge=1, le=60, description="Frames per second")
    audio: bool | None = Field(None, description="Whether the video has sound; unset: the model's default")
    seed: Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_whole)] | None = Field(
        None, description="Seed of the model's random number generator, less than 2^63; as 1.0, less than 2^53"
    )
    parameters: Annotated[dict[str, Value], WithJsonSchema(_PARAMETERS_SCHEMA)] = Field(
        default_factory=dict, max_length=_PARAMETERS, description="Other parameters of the model"
    )
    shared: bool = Field(False, description="Whether the video may be reused for other users with the same request")

    @model_validator(mode="after")
    def _says_it_in_little(self) -> Self:
        for name, value in self.parameters.items():
            if not 0 < len(name) <= 100 or (isinstance(value, str) and len(value) > 1_000):  # noqa: PLR2004  characters
                raise ValueError(
                    f"parameter {name[:100]!r}: a name must have 1 to 100 characters, a text at most 1,000"
                )
        texts = [text for text in (*self.parameters, *self.parameters.values()) if isinstance(text, str)]
        for text in (self.prompt, self.negative_prompt, self.model_version, *texts):
            if "\0" in text or not is_text(text):
                raise ValueError("a text contains a NUL character or half of a surrogate pair")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the fields that determine the video, as JSON values; 5.0 becomes 5, so that equal numbers match."""
        omitted = {"audio"} if self.audio is None else set()  # older requests have no `audio`, and must stay equal
        return {name: _plain(value) for name, value in self.model_dump(exclude={"shared", *omitted}).items()}


def is_text(text: str) -> bool:
    """Check whether a text can be encoded in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _plain(value: Any) -> Any:  # noqa: ANN401  any JSON value
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Given(NamedTuple):
    """The metadata and webhook URL of a job. A video that exists already answers a request with any."""

    metadata: dict[str, str]
    webhook_url: str | None = None  # where the job's events are sent, too


class RefusedFor(StrEnum):
    """The reason why a request is refused."""

    QUOTA = "quota"
    CREDITS = "credits"
    BUDGET = "budget"
    SPEND_LIMIT = "spend-limit"
    FROZEN = "frozen"
    INPUT = "input"
    MODEL = "model"


class Cached(NamedTuple):
    """The video exists already. `job_id` is the row that records this answer."""

    job_id: str
    video_id: str
    charged_microusd: int


class Joined(NamedTuple):
    """The same video is being made already: this job succeeds when that one, its leader, succeeds."""

    job_id: str
    leader_id: str
    price_microusd: int  # held; when the leader succeeds, the charge of a cache hit is captured


class Queued(NamedTuple):
    """The video will be made. `place` counts the waiting jobs from 1; the seconds are estimates, from now.

    Without a worker, nobody knows when a job starts: the seconds are None.
    """

    job_id: str
    price_microusd: int
    price_book: str
    place: int
    has_worker: bool
    wait_seconds: float | None
    finish_seconds: float | None


class Unfulfilled(NamedTuple):
    """The job with this idempotency key has failed for good or was cancelled, at no charge."""

    job_id: str
    state: JobState
    error: str


class Declined(NamedTuple):
    """The video will not be made, and nothing was changed. `reason` is text for the user."""

    code: RefusedFor
    reason: str
    retry_seconds: int | None = None  # until a new request makes sense, if known


class Quoted(NamedTuple):
    """The answer to a request if it came now, and its price in micro-dollars. Nothing is changed.

    `status` and the amounts are None where no model makes the video. `declined` is None where it would be admitted.
    """

    status: Literal["cached", "joined", "queued"] | None = None
    price_microusd: int | None = None  # taken or held at once
    charge_microusd: int | None = None  # taken in all, when the video is there
    price_book: str | None = None
    declined: Declined | None = None


Admission = Cached | Joined | Queued | Unfulfilled | Declined


class Incoming(NamedTuple):
    """A video to be uploaded: its user, and what the catalogue records about a new video."""

    user_id: str
    video_id: str
    created_at: datetime
    tag: str | None = None  # for segments of the lifecycle
    model: str | None = None  # the model that generated it
    reservation: str | None = None  # key of the reservation of its bytes


class Upload(NamedTuple):
    """An upload. `state` is the state of its reservation: open, settled (the video is live), released, expired."""

    id: str
    request_sha256: str
    user_id: str
    video_id: str
    video_created_at: datetime
    state: str
    refusal: str | None
    reservation_id: str
    key: str
    size_bytes: int
    md5: str
    content_type: str
    url_until: datetime
    tag: str | None  # for the video
    blob_id: int = 0  # its pending blob; 0: not written yet
