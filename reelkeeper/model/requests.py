"""Requests for generation, validated and canonical, and their answers."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from reelkeeper.model.jobs import JobState

_PARAMETERS = 32  # of a request
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[\w./:-]+$")]
TAG_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Tag = Annotated[str, StringConstraints(pattern=TAG_PATTERN)]  # of a video, given with its job or upload
Value = str | int | float | bool | None


class GenerationRequest(BaseModel):
    """One video to be made. Two that are equal ask for the same video."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: Name = Field(description="Name of the model")
    model_version: str = Field("", max_length=100, description="Its version")
    prompt: str = Field(min_length=1, max_length=10_000, description="What to show")
    negative_prompt: str = Field("", max_length=10_000, description="What not to show")
    image_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the image to start from")
    width: int = Field(1280, ge=64, le=4096, multiple_of=2, description="Pixels")
    height: int = Field(720, ge=64, le=4096, multiple_of=2, description="Pixels")
    duration_seconds: float = Field(5.0, ge=0.5, le=120, description="Length of the video")
    fps: int = Field(24, ge=1, le=60, description="Frames per second")
    audio: bool | None = Field(None, description="With sound, or without; unset: as the model has it")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Of the model's chance")
    parameters: dict[str, Value] = Field(default_factory=dict, max_length=_PARAMETERS, description="Whatever else")
    shared: bool = Field(False, description="The video may be given to others who ask for the same")

    @model_validator(mode="after")
    def _says_it_in_little(self) -> Self:
        for name, value in self.parameters.items():
            if not 0 < len(name) <= 100 or (isinstance(value, str) and len(value) > 1_000):  # noqa: PLR2004  characters
                raise ValueError(f"parameter {name[:100]!r}: its name has 1 to 100 characters, a text at most 1,000")
        texts = [text for text in (*self.parameters, *self.parameters.values()) if isinstance(text, str)]
        for text in (self.prompt, self.negative_prompt, self.model_version, *texts):
            if "\0" in text or not _is_text(text):
                raise ValueError("a text holds a NUL, or half of a character")
        return self

    def canonical(self) -> dict[str, Any]:
        """Give all that shapes the video, as JSON values: equal numbers look the same."""
        unsaid = {"audio"} if self.audio is None else set()  # what was made before it could be said is still the same
        return {name: _plain(value) for name, value in self.model_dump(exclude={"shared", *unsaid}).items()}


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever JSON can say
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class RefusedFor(StrEnum):
    """Why a request is refused."""

    QUOTA = "quota"
    CREDITS = "credits"
    BUDGET = "budget"
    SPEND_LIMIT = "spend-limit"
    FROZEN = "frozen"
    INPUT = "input"
    MODEL = "model"


class Cached(NamedTuple):
    """The video exists already. `job_id` is that of the row that records this answer."""

    job_id: str
    video_id: str
    charged_microusd: int


class Joined(NamedTuple):
    """The same video is being made already: this job succeeds with the one that leads it."""

    job_id: str
    leader_id: str
    price_microusd: int  # held; what is captured when the leader succeeds is the charge of a cache hit


class Queued(NamedTuple):
    """It will be made. `place` counts from 1 among the jobs that wait; the seconds are estimates from now on."""

    job_id: str
    price_microusd: int
    price_book: str
    place: int
    wait_seconds: float
    finish_seconds: float


class Unfulfilled(NamedTuple):
    """The request with this key has failed for good or was cancelled, and nothing was charged for it."""

    job_id: str
    state: JobState
    error: str


class Declined(NamedTuple):
    """It will not be made, and nothing was changed. `reason` is for the user to read."""

    code: RefusedFor
    reason: str
    retry_seconds: int | None = None  # until it may be asked for again, where that is known


Admission = Cached | Joined | Queued | Unfulfilled | Declined


class Incoming(NamedTuple):
    """A video to be uploaded: its user, and what the catalogue records of a new one."""

    user_id: str
    video_id: str
    created_at: datetime
    tag: str | None = None  # for segments of the lifecycle
    model: str | None = None  # that made it
    reservation: str | None = None  # the key of the promise of its bytes


class Upload(NamedTuple):
    """An upload. `state` is its reservation's: open, settled (the video is live), released, expired."""

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
    blob_id: int = 0  # of its pending blob; 0: not written yet
