"""What a run of the queue says of itself. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from reelkeeper.errors import PartialFailure
from reelkeeper.rules.core.wording import many


@dataclass(frozen=True, slots=True)
class DispatchReport:
    """The jobs that a run brought to an end, how many wait, run and are dead at its end, and who comes next."""

    flow: str
    run_id: str
    dry_run: bool
    waiting: int
    running: int
    parked: int
    dead: int  # all there are, of whenever
    succeeded: int = 0
    refused: int = 0  # never to be made
    cancelled: int = 0
    to_be_tried_again: int = 0
    in_doubt: int = 0  # parked by this run
    handed_over: int = 0  # to the run that follows
    given_up: int = 0  # dead: their attempts are used up
    failed_here: int = 0  # another worker has them, a minute later
    next_jobs: tuple[str, ...] = field(default=())  # a dry run: the first few, with the terms of their places

    @classmethod
    def of(cls, run_id: str, states: Mapping[str, int], **what: Any) -> Self:  # noqa: ANN401  fields of the report
        """Make a report from the number of jobs in each state."""
        what |= {name: states.get(name, 0) for name in ("running", "parked", "dead")}
        return cls("dispatch_jobs", run_id, waiting=states.get("queued", 0), **what)

    def require_whole(self) -> Self:
        """Raise PartialFailure for jobs that used up their attempts, or failed in a way that nobody has foreseen."""
        if self.given_up or self.failed_here:
            raise PartialFailure(
                f"{many(self.succeeded, 'job')} succeeded; {self.given_up} used up their attempts and are dead, "
                f"{self.failed_here} failed here and go to another worker. To try a dead one again: "
                "reelkeeper jobs redrive JOB"
            )
        return self
