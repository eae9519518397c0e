"""What a generator is asked for, what it gives, and what it has to say meanwhile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Order(NamedTuple):
    """One video to be made. The last three are what an earlier worker has written down of it."""

    job_id: str
    model: str
    request: Mapping[str, Any]  # a GenerationRequest in JSON's values
    provider_key: str | None = None
    provider_job_id: str | None = None
    was_parked: bool = False  # it has been asked after once already, a while ago


class Made(NamedTuple):
    """A video, and what the provider says that it cost; None if it says nothing."""

    path: Path
    cost_microusd: int | None = None


class Log(Protocol):
    """Where a generator writes down what must outlive it. Each may raise what ends the work, such as LeaseLost."""

    def announce(self) -> str:
        """Note that the job is about to be sent; gives the key that it is to be sent under."""

    def sent(self, provider_job_id: str) -> None:
        """Note the provider's name of the job."""

    def progress(self, fraction: float) -> None:
        """Tell how far it is, from 0 to 1; to be called at least every few seconds."""

    def paid(self, cost_microusd: int) -> None:
        """Note what the provider took for an attempt that made nothing."""
