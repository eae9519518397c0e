"""Compare a vendor's list of our jobs with our own. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from reelkeeper.model.money import SentJob, VendorJob

_NANO_IN_MICRO: Final = 1_000


class JobBill(NamedTuple):
    """A job known to both, with each side's cost; None: unknown. Each attempt at a job has its own id at the vendor."""

    job_id: str
    vendor_ids: tuple[str, ...]
    ours_nanousd: int | None
    theirs_nanousd: int | None

    @property
    def difference_nanousd(self) -> int | None:
        """Their cost less ours, with 0 for an unknown cost of ours; None where the vendor gives no costs."""
        return None if self.theirs_nanousd is None else self.theirs_nanousd - (self.ours_nanousd or 0)


class VendorComparison(NamedTuple):
    """The jobs known to both, our jobs missing at the vendor, and the vendor's jobs that are not ours.

    A vendor that lists no single jobs has `sums`, compared with all of ours that ended in that period.
    """

    both: tuple[JobBill, ...]
    only_ours: tuple[SentJob, ...]
    only_theirs: tuple[VendorJob, ...]
    sums: tuple[VendorJob, ...] = ()
    summed: tuple[SentJob, ...] = ()

    @property
    def differing(self) -> list[JobBill]:
        """The jobs whose costs differ."""
        return [bill for bill in self.both if bill.difference_nanousd]

    @property
    def ours_nanousd(self) -> int:
        """The known cost of all our jobs."""
        alone = sum((job.cost_microusd or 0) * _NANO_IN_MICRO for job in (*self.only_ours, *self.summed))
        return alone + sum(bill.ours_nanousd or 0 for bill in self.both)

    @property
    def theirs_nanousd(self) -> int | None:
        """The vendor's charge for all listed jobs; None where it is not given for each."""
        unnamed = [job.cost_nanousd for job in (*self.only_theirs, *self.sums)]
        return _total([*(bill.theirs_nanousd for bill in self.both), *unnamed])


def compare(
    ours: Sequence[SentJob], theirs: Sequence[VendorJob], marks: Mapping[str, str], first: datetime, end: datetime
) -> VendorComparison:
    """Match a vendor's list from `first` on and before `end` with our jobs; `marks` maps its entries to jobs.

    `ours` may include jobs from outside the period: a job counts if the vendor lists it, and is missing only if it
    began and ended within the period.
    """
    if sums := [entry for entry in theirs if entry.id is None]:
        ended = [job for job in ours if job.finished_at is not None and first <= job.finished_at < end]
        return VendorComparison((), (), (), tuple(sums), tuple(ended))
    by_vendor_id = {job.vendor_id: job.id for job in ours if job.vendor_id}
    found: defaultdict[str, list[VendorJob]] = defaultdict(list)
    strangers = []
    for entry in theirs:
        job_id = by_vendor_id.get(entry.id or "") or marks.get(entry.mark or "")
        if job_id is None:
            strangers.append(entry)
        else:
            found[job_id].append(entry)
    both = [
        JobBill(
            job.id,
            tuple(str(entry.id) for entry in found[job.id]),
            None if job.cost_microusd is None else job.cost_microusd * _NANO_IN_MICRO,
            _total([entry.cost_nanousd for entry in found[job.id]]),
        )
        for job in ours
        if job.id in found
    ]
    missing = [
        job
        for job in ours
        if job.id not in found
        and (job.vendor_id or job.vendor_key)
        and job.started_at >= first
        and job.finished_at is not None
        and job.finished_at < end
    ]
    return VendorComparison(tuple(both), tuple(missing), tuple(strangers))


def _total(costs: Sequence[int | None]) -> int | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
