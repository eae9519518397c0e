"""Define the reports of runs: what a run would do; or what it did, what failed, and how to undo it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Self

from reelkeeper.errors import GuardRefused, IntegrityDoubt, PartialFailure
from reelkeeper.model import Done, Grace, Outcome, PlannedRule, PlanSummary, SearchTotals
from reelkeeper.model.adoption import Adoption
from reelkeeper.model.document import RunReport
from reelkeeper.rules.billing.pricing import storage_microusd_per_month
from reelkeeper.rules.core.wording import dollars, many, size

_SMALLER = ("compressed", "retired", "purged")  # outcomes that lower the bill, at the latest after the grace
_NAMED = 3  # failures in an error


class Effect(NamedTuple):
    """The effect of one rule of a plan; dollars are those of a month, None where they are unknown."""

    will: str
    size_bytes: int = 0
    saving_microusd: int | None = 0


def effects(planned: Iterable[PlannedRule], *, is_refused: bool) -> list[Effect]:
    """Describe the effect of a plan by rule: nothing, where the limits refuse it."""
    if is_refused:
        return [Effect("nothing, as its limits refuse the plan")]
    return [
        Effect(f"{rule.action} {many(rule.objects, 'video')}: {rule.title}", rule.size_bytes, rule.saving_microusd)
        for rule in planned
    ]


@dataclass(frozen=True, slots=True)
class Report(RunReport):
    """The report of a run on a saved plan. A dry run has no `done`; `refusal` is the guard's message."""

    plan: PlanSummary
    planned: tuple[PlannedRule, ...]
    done: tuple[Done, ...] = ()
    failures: tuple[Outcome, ...] = ()  # the first few, with their reasons
    refusal: str | None = None
    searches: SearchTotals = field(default_factory=SearchTotals)  # CRF searches: their cost and net saving

    @property
    def failed(self) -> int:
        """The number of failed items."""
        return sum(done.objects for done in self.done if done.outcome == "failed")

    @property
    def saved_bytes(self) -> int:
        """The bytes that are no longer stored, or will not be after the grace."""
        return saved_bytes(self.done)

    def require_complete(self) -> Self:
        """Raise PartialFailure if anything failed; the rest is done."""
        _require_complete(self)
        return self


@dataclass(frozen=True, slots=True)
class HelpReport(RunReport):
    """The work of a run on another run's plan. Without `plan_id`, there was no plan."""

    plan_id: str | None = None
    videos: int = 0  # to be compressed by the plan
    left: int = 0  # unsettled ones among them
    done: tuple[Done, ...] = ()  # by this run
    failures: tuple[Outcome, ...] = ()  # the first few, with their reasons

    def require_complete(self) -> Self:
        """Raise PartialFailure if anything failed here; the rest is done."""
        _require_complete(self)
        return self


@dataclass(frozen=True, slots=True)
class SyncReport(RunReport):
    """The result of comparing bucket and catalogue, and the changes made.

    A dry run only compares; its `adopted`, `taken_back` and `adoption` are what a run would do.
    """

    as_of: datetime
    listed_objects: int
    listed_bytes: int
    expected: int  # objects that the catalogue knows to be stored
    seen: int  # of them
    missing: int  # the others, each confirmed by a HEAD
    unexplained: int  # objects without a row
    changed: int  # objects that differ from their record
    changed_keys: tuple[str, ...]  # the first few
    reappeared: int  # objects that were purged, but exist
    emptied: tuple[str, ...] = ()  # keys of known videos that the service has overwritten with 0 bytes
    settled: tuple[Done, ...] = ()  # open intents and claims of killed runs, by outcome
    adopted: int = 0
    taken_back: int = 0
    lost: tuple[str, ...] = ()  # videos whose bytes are missing, the first few
    lost_videos: int = 0
    doubtful: tuple[str, ...] = ()  # write-once keys with other bytes
    known_doubts: tuple[str, ...] = ()  # those of which an earlier run has told, and which nobody has settled
    claimed: tuple[str, ...] = ()  # keys of the service's that hold an upload, while a purge has the bytes before it
    swept: int = 0
    orphans: int = 0  # objects still without a row
    orphan_keys: tuple[str, ...] = field(default=())  # the first few
    adoption: Adoption = field(default_factory=Adoption)
    unclear: int = 0  # objects kept out of the catalogue that no earlier run has reported, such as of 0 bytes
    unclear_keys: tuple[str, ...] = ()  # the first few, with the reason
    event_gaps: int | None = None  # differences that R2's events should have reported; None if events are not followed

    def require_complete(self) -> Self:
        """Raise IntegrityDoubt for lost videos, and GuardRefused if the patterns do not fit the bucket.

        Raises PartialFailure for operations that could not be settled, and for uploads that wait for the claim of a
        purge to end. Everything else is done. What is in doubt or unclear is told in a message, and ends no run.
        """
        if self.lost_videos:
            emptied = ", ".join(self.emptied[:_NAMED])
            overwritten = f". The service has stored 0 bytes over {emptied}: upload it again" if emptied else ""
            raise IntegrityDoubt(
                f"{many(self.lost_videos, 'video')} lost the stored bytes: {', '.join(self.lost)}. They are marked, "
                f"nothing is deleted; run {self.run_id}: reelkeeper audit{overwritten}"
            )
        if self.adoption.refusal:
            raise GuardRefused(f"nothing was adopted by a pattern, and the rest is done: {self.adoption.refusal}")
        failed = sum(done.objects for done in self.settled if done.outcome == "failed")
        troubles = []
        if failed:
            troubles.append(f"{many(failed, 'operation')} that killed runs left open could not be settled")
        if self.claimed:
            keys = ", ".join(self.claimed[:_NAMED])
            troubles.append(
                f"the service has stored other bytes at {many(len(self.claimed), 'key')} whose old bytes a purge has"
                f" claimed, and a sync_catalog after the end of its claim takes them in: {keys}"
            )
        if troubles:
            raise PartialFailure(f"{'; '.join(troubles)}. The rest is done")
        return self


def saved_bytes(outcomes: Iterable[Done]) -> int:
    """Sum the bytes that are no longer stored, or will not be after the grace."""
    return sum(done.before_bytes - done.after_bytes for done in outcomes if done.outcome in _SMALLER)


def less_stored(outcomes: Sequence[Done], grace: Grace | None) -> str:
    """Say how much less is stored, and from when on; "" where nothing became smaller.

    Old bytes wait out the grace, beside the new ones; a purge, which has no `grace`, deletes at once.
    """
    if not any(done.outcome in _SMALLER for done in outcomes):
        return ""
    freed = saved_bytes(outcomes)
    less = f"{size(freed)} less, {dollars(storage_microusd_per_month(freed))} a month at R2's price for stored bytes"
    if grace is None:
        return f"{less}."
    new = sum(done.after_bytes for done in outcomes if done.outcome in _SMALLER)
    until = f"{size(new)} more, as new files stand beside the old" if new else "all of it stays stored"
    return f"{less}, once the grace of {grace.in_words} is over. Until then {until}."


def _require_complete(report: Report | HelpReport) -> None:
    if any(done.outcome == "failed" for done in report.done):
        counts = ", ".join(f"{done.objects:,} {done.outcome}" for done in report.done)
        named = "; ".join(f"{outcome.video_id}: {outcome.reason}" for outcome in report.failures[:_NAMED])
        raise PartialFailure(f"{report.flow}, run {report.run_id}: {counts}. Failed, for example: {named}")


def count(outcomes: Sequence[Outcome]) -> tuple[Done, ...]:
    """Sum the outcomes by action."""
    kinds = sorted({outcome.action for outcome in outcomes})
    groups = [(kind, [outcome for outcome in outcomes if outcome.action == kind]) for kind in kinds]
    return tuple(
        Done(
            kind,
            len(group),
            sum(outcome.before_bytes for outcome in group),
            sum(outcome.after_bytes for outcome in group),
        )
        for kind, group in groups
    )


@dataclass(frozen=True, slots=True)
class DeliveryReport(RunReport):
    """The result of a delivery from the outbox. `titles` are those of some waiting messages, the newest first."""

    sent: int = 0
    diverted: int = 0  # to the second sink instead of the first
    copied: int = 0  # to the second sink, and still waiting for the first
    failed: int = 0  # failed attempts
    waiting: int = 0
    error: str = ""  # the last one
    titles: tuple[str, ...] = ()

    def require_complete(self) -> Self:
        """Raise PartialFailure if the first sink did not accept every message."""
        if self.failed or self.diverted:
            raise PartialFailure(
                f"{many(self.sent, 'message')} sent, {self.diverted} refused and diverted to the second sink, "
                f"{many(self.failed, 'attempt')} in vain, {self.waiting} waiting: {self.error}. "
                "What waits is tried again by the next run"
            )
        return self
