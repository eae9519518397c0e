"""The contract of a provider of videos: an order, how a job stands there, and which guarantee the provider gives.

A provider speaks one vendor's format and holds no policy: `remote` decides when to send, look, wait, fetch and give up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from reelkeeper.model.money import VendorJob


class Way(StrEnum):
    """A way to find a job whose submit response was lost."""

    KEY = "it is asked for by our key"
    LISTING = "its list of jobs carries our mark"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a provider guarantees about jobs whose submit response was lost, per its documentation or clients.

    Without a way, such a job stays parked until it is given up. `absence_is_proof`: a job that is twice reported as
    unknown was never received, and may be sent again under the same key. Nothing else in doubt is ever sent again.
    """

    ways: tuple[Way, ...] = ()
    absence_is_proof: bool = False


class Order(NamedTuple):
    """One video to be made. The four before the last are what an earlier worker has written down of it."""

    job_id: str
    model: str
    request: Mapping[str, Any]  # a GenerationRequest in JSON's values
    provider_key: str | None = None
    provider_job_id: str | None = None
    was_parked: bool = False  # it has been asked after once already, a while ago
    started_at: datetime | None = None  # nothing was sent before
    is_priced: bool = False  # for this very model of the vendor's


class ImageSource(NamedTuple):
    """Where generators read input images, each named by its SHA-256 in hex."""

    fetch: Callable[[str, Path], bool]  # writes one to a path; False where there is none
    url: Callable[[str], str | None]  # where one can be read for a while; None where there is none


NO_IMAGES: Final = ImageSource(lambda _digest, _path: False, lambda _digest: None)


class Submission(NamedTuple):
    """A job to submit: the order, our key for it, and the input image as a URL or as bytes."""

    key: str
    order: Order
    image_url: str | None = None
    image: bytes | None = None


class Made(NamedTuple):
    """A video, and what the provider says that it cost; None if it says nothing."""

    path: Path
    cost_microusd: int | None = None


class Status(StrEnum):
    """The state of a job at its provider."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # it may work another time
    REFUSED = "refused"  # it never will
    MODERATED = "moderated"  # nor will it, for what it shows
    CANCELLED = "cancelled"


_UNDER_WAY = frozenset({Status.QUEUED, Status.RUNNING})


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's state as its provider reports it; `error` in the provider's words."""

    id: str
    status: Status
    progress: float = 0.0
    cost_microusd: int | None = None
    video_url: str | None = None
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in _UNDER_WAY


class Log(Protocol):
    """Records what must outlive a generator. Each call may raise an error that ends the work, such as LeaseLost."""

    def announce(self) -> str:
        """Note that the job is about to be sent; gives the key that it is to be sent under."""

    def sent(self, provider_job_id: str) -> None:
        """Note the provider's name of the job."""

    def progress(self, fraction: float) -> None:
        """Report the progress, from 0 to 1; call it at least every few seconds."""

    def paid(self, cost_microusd: int) -> None:
        """Note what the provider charged for an attempt that made no video."""


class Generator(Protocol):
    """Makes a video from an order."""

    name: str
    outlives_us: bool  # what was sent goes on without its worker

    def make(self, order: Order, target: Path, log: Log) -> Made:
        """Have the video made, and store it in `target`. Raises a GenerationError, or what `log` raises."""


class Provider(Protocol):
    """One vendor's format. Each call but `submit` may be repeated at will; none repeats itself."""

    name: str
    guarantee: Guarantee
    takes_image_bytes: bool

    def submit(self, submission: Submission) -> str:
        """Send one request, once, and give the provider's name of the job.

        Raises GenerationRefused, ContentRefused, ProviderBusy or AccountLocked where the provider certainly did not
        accept it, and GenerationUnknown where that is not certain.
        """

    def find(self, order: Order) -> Standing | None:
        """Find the job that was sent under the order's key; None if the provider does not list it.

        Raises GenerationUnknown. Called only where the guarantee names a way.
        """

    def look(self, job_id: str) -> Standing | None:
        """Ask how a job stands; None if the provider does not know it. Raises GenerationUnknown."""

    def cancel(self, job_id: str) -> None:
        """Tell the provider that a job is no longer wanted. A missing answer does not matter."""

    def fetch(self, video_url: str, target: Path, most_bytes: int) -> None:
        """Store the video in `target`. Raises GenerationLost where it no longer exists, GenerationUnknown."""


class Billing(Protocol):
    """A vendor's own list of the jobs that it received, with each one's cost where it is given."""

    name: str

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """List the jobs from `first` on and before `end`, or their sums by day and model.

        Raises GenerationUnknown where not all could be read.
        """

    def mark_of(self, key: str) -> str:
        """Give the mark by which that list names the job that was sent under `key`."""
