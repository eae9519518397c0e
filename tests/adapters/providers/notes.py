"""The log of a job's worker, kept in memory."""

from reelkeeper.adapters.providers.contract import Order

ORDER = Order(
    "j1", "a model", {"prompt": "a cat", "width": 1280, "height": 720, "duration_seconds": 5.0, "fps": 24, "seed": None}
)


class Notes:
    """What a worker writes down, and what it says when it is asked whether to go on."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.job_id: str | None = None
        self.fractions: list[float] = []
        self.stop: Exception | None = None  # raised once it is sent
        self.stops_early = False

    def announce(self) -> str:
        self.key = self.key or "j1-1"
        return self.key

    def sent(self, provider_job_id: str) -> None:
        assert self.key, "it was sent before its key was written down"
        self.job_id = provider_job_id

    def over(self) -> None:
        self.is_over = True

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if self.stop and (self.job_id or self.stops_early):
            raise self.stop

    def paid(self, cost_microusd: int | None) -> None:
        self.paid_microusd = cost_microusd

    def taken_up(self, *, was_parked: bool = False) -> Order:
        """Return the order as another worker would read it."""
        return ORDER._replace(provider_key=self.key, provider_job_id=self.job_id, was_parked=was_parked)
