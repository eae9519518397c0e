"""The contract of a provider of videos: orders, job states at the provider, and its guarantees.

A provider implements one vendor's format and no policy: `remote` decides when to send, look, wait, fetch and give up.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

from reelkeeper.model.jobs import Served, VendorErasure
from reelkeeper.model.money import Published, VendorJob


class Way(StrEnum):
    """A way to find a job whose submit response was lost."""

    KEY = "it is looked up by our key"
    LISTING = "its list of jobs carries our mark"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Guarantee of a provider about jobs whose submit response was lost, per its documentation or clients.

    Without a way, such a job stays parked until it is given up. `absence_is_proof`: a job that is twice reported as
    unknown was never received, and may be sent again under the same key. Nothing else in doubt is ever sent again.
    `bills`: each job costs money there, so what it made is never made again because we could not read it.
    """

    ways: tuple[Way, ...] = ()
    absence_is_proof: bool = False
    bills: bool = True
    cancels: bool = True  # it has a call for it, which may come too late


class Order(NamedTuple):
    """One video to be made. Key, provider's id, `was_parked` and `started_at` were recorded by an earlier worker."""

    job_id: str
    model: str
    request: Mapping[str, Any]  # a GenerationRequest in JSON's values
    provider_key: str | None = None
    provider_job_id: str | None = None
    was_parked: bool = False  # it was already looked up once, some time ago
    started_at: datetime | None = None  # nothing was sent before
    is_priced: bool = False  # for exactly this model of the vendor
    deadline: datetime | None = None  # a job that is not over by then is cancelled and given up
    gpu_second_usd: Decimal | None = None  # the book's price, for a model that is billed by the time of a GPU

    @property
    def seconds_left(self) -> int | None:
        """The whole seconds until its deadline, at least 1; None: it has none."""
        left = (self.deadline - datetime.now(UTC)).total_seconds() if self.deadline else None
        return None if left is None else max(int(left), 1)


class ImageSource(NamedTuple):
    """The source of input images for generators, each named by its SHA-256 in hex."""

    fetch: Callable[[str, Path], bool]  # writes one to a path; False if it does not exist
    url: Callable[[str], str | None]  # a temporary URL of one; None if it does not exist


NO_IMAGES: Final = ImageSource(lambda _digest, _path: False, lambda _digest: None)


class Submission(NamedTuple):
    """A job to submit: the order, our key for it, and the input image as a URL or as bytes."""

    key: str
    order: Order
    image_url: str | None = None
    image: bytes | None = None


class Made(NamedTuple):
    """A video, and its cost according to the provider; None if not reported.

    `url`: where it can be fetched again, at a vendor that charges for making it again.
    """

    path: Path
    cost_microusd: int | None = None
    url: str | None = None


class Status(StrEnum):
    """The state of a job at its provider."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # may succeed if tried again
    REFUSED = "refused"  # never succeeds
    MODERATED = "moderated"  # never succeeds, because of its content
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
    is_charged: bool = False  # it charges, by its own word, and does not say how much
    units: Decimal | None = None  # billed, each at the provider's `unit_usd`

    @property
    def is_over(self) -> bool:
        """Check whether the job has ended."""
        return self.status not in _UNDER_WAY


class Log(Protocol):
    """Records what must outlive a generator. Each call may raise an error that ends the work, such as LeaseLost."""

    def announce(self) -> str:
        """Record that the job is about to be sent; return the key to send it under."""

    def sent(self, provider_job_id: str) -> None:
        """Record the provider's id of the job."""

    def over(self) -> None:
        """Record that the provider is done with the job, which remains to be fetched."""

    def progress(self, fraction: float) -> None:
        """Report the progress, from 0 to 1; call it at least every few seconds."""

    def paid(self, cost_microusd: int | None) -> None:
        """Record what the provider charged for an attempt that made no video; None: it did not say how much."""


class Generator(Protocol):
    """Makes a video from an order."""

    name: str
    outlives_us: bool  # a sent job continues without its worker

    def make(self, order: Order, target: Path, log: Log) -> Made:
        """Make the video, and store it in `target`. Raises a GenerationError, or what `log` raises."""


class Generators(NamedTuple):
    """The generators of a worker by the names of their providers, and which gets the models that no catalogue gives."""

    by_name: Mapping[str, Generator]
    default: str | None  # None: it takes no jobs of such models

    @classmethod
    def alone(cls, generator: Generator) -> Self:
        """Return the generators of a worker that has only one."""
        return cls({generator.name: generator}, generator.name)

    @property
    def served(self) -> Served:
        """The providers' names."""
        return Served(frozenset(self.by_name), self.default)


class Provider(Protocol):
    """One vendor's format. All calls but `submit` may be repeated; none retries by itself."""

    name: str
    guarantee: Guarantee
    takes_image_bytes: bool

    def submit(self, submission: Submission) -> str:
        """Send one request, once, and return the provider's id of the job.

        Raises GenerationRefused, ContentRefused, ProviderBusy or AccountLocked if the provider certainly did not
        accept it, and GenerationUnknown if that is not certain.
        """

    def find(self, order: Order) -> Standing | None:
        """Find the job that was sent under the order's key; None if the provider does not list it.

        Raises GenerationUnknown. Called only if the guarantee names a way.
        """

    def look(self, job_id: str) -> Standing | None:
        """Read a job's state; None if the provider does not know it. An undocumented state counts as running.

        Raises GenerationUnknown, and GenerationLost where the provider says that it has deleted the video.
        """

    def unit_usd(self, order: Order) -> Decimal | None:
        """Return the price of a unit that it bills the order's model by, in dollars; None: it is not known."""

    def cancel(self, job_id: str) -> None:
        """Tell the provider that a job is no longer wanted. A missing answer does not matter."""

    def fetch(self, video_url: str, target: Path, most_bytes: int) -> None:
        """Store the video in `target`. Raises GenerationLost if it no longer exists, ResultUnreadable."""

    def erase(self, job_id: str) -> VendorErasure:
        """Have the request and the files of a job that is over deleted. Raises GenerationUnknown: ask again later."""


class PriceList(Protocol):
    """A vendor that publishes the prices or limits of its models."""

    def published(self, models: Iterable[str]) -> dict[str, Published]:
        """Read what it says of these models; those that it says nothing of are left out. Raises GenerationUnknown."""


class Billing(Protocol):
    """A vendor's list of the jobs that it received, with their costs if it has them."""

    name: str

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """List the jobs from `first` on and before `end`, or their sums by day and model.

        Raises GenerationUnknown if not all could be read.
        """

    def mark_of(self, key: str) -> str:
        """Return the mark by which that list identifies the job that was sent under `key`."""
