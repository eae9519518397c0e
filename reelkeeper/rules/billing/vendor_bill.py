"""Compare a vendor's list of our jobs with our own. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from reelkeeper.model.money import NANO_IN_MICRO, SentJob, VendorJob


class JobBill(NamedTuple):
    """A vendor's job known to both, with each side's cost; None: unknown, or not over yet."""

    job_id: str  # ours; each attempt at it has its own bill
    vendor_id: str
    ours_nanousd: int | None
    theirs_nanousd: int | None

    @property
    def difference_nanousd(self) -> int | None:
        """Their cost less ours, with 0 for an unknown cost of ours; None where the vendor gives no costs."""
        return None if self.theirs_nanousd is None else self.theirs_nanousd - (self.ours_nanousd or 0)


class VendorComparison(NamedTuple):
    """The vendor's jobs known to both, those of ours missing there, and those there that are not ours.

    One of our jobs has as many there as it had attempts. A vendor that lists no single jobs has `sums`, compared with
    all of ours that ended in that period.
    """

    both: tuple[JobBill, ...]
    only_ours: tuple[SentJob, ...]
    only_theirs: tuple[VendorJob, ...]
    sums: tuple[VendorJob, ...] = ()
    summed: tuple[SentJob, ...] = ()

    @property
    def requests(self) -> int:
        """How many of our jobs the ones known to both were made for."""
        return len({bill.job_id for bill in self.both})

    @property
    def differing(self) -> list[JobBill]:
        """The jobs whose costs differ."""
        return [bill for bill in self.both if bill.difference_nanousd]

    @property
    def ours_nanousd(self) -> int:
        """The known cost of all our jobs."""
        alone = sum((job.cost_microusd or 0) * NANO_IN_MICRO for job in (*self.only_ours, *self.summed))
        return alone + sum(bill.ours_nanousd or 0 for bill in self.both)

    @property
    def theirs_nanousd(self) -> int | None:
        """The vendor's charge for all listed jobs; None where it is not given for each."""
        unnamed = [job.cost_nanousd for job in (*self.only_theirs, *self.sums)]
        return _total([*(bill.theirs_nanousd for bill in self.both), *unnamed])


def compare(
    ours: Sequence[SentJob], theirs: Sequence[VendorJob], marks: Mapping[str, str], first: datetime, end: datetime
) -> VendorComparison:
    """Match a vendor's list from `first` on and before `end` with our jobs; `marks` names the job of ours by its marks.

    `ours` may include jobs from outside the period: a job counts if the vendor lists it, and is missing only if it
    was sent and ended within the period, and is expected to cost something.
    """
    if sums := [entry for entry in theirs if entry.id is None]:
        ended = [job for job in ours if job.ended_at is not None and first <= job.ended_at < end]
        return VendorComparison((), (), (), tuple(sums), tuple(ended))
    by_vendor_id = {job.vendor_id: job for job in ours if job.vendor_id}
    by_key = {job.key: job for job in ours}
    both, strangers, found = [], [], set[str]()
    for entry in theirs:
        # Its mark finds a job whose answer was lost.
        key = marks.get(entry.mark or "", "")
        job = by_vendor_id.get(str(entry.id)) or by_key.get(key)
        # guard charges.each_attempt: an attempt at one of our jobs passes as a stranger's job
        if job is None and not key:
            strangers.append(entry)
            continue
        if job:
            found.add(job.key)
        cost = None if job is None or job.cost_microusd is None else job.cost_microusd * NANO_IN_MICRO
        job_id = job.job_id if job else key.rpartition("-")[0]  # of an attempt that was not recorded
        both.append(JobBill(job_id, str(entry.id), cost, entry.cost_nanousd))
    missing = [
        job
        for job in ours
        if job.key not in found
        and job.cost_microusd
        and job.sent_at >= first
        and job.ended_at is not None
        and job.ended_at < end
    ]
    return VendorComparison(tuple(both), tuple(missing), tuple(strangers))


def never_made(found: VendorComparison, first: datetime, before: datetime) -> list[SentJob]:
    """Choose the jobs that count in doubt although the vendor's account shows that they were never made.

    A job is in doubt if its vendor never named it. Judged are those sent from `first` on and before `before`, as the
    account may lack what came later. Each entry there that is not ours may be one of them, so as many remain, the
    dearest; of sums, those remain that the sums have room for beside our other jobs: what is left of our total is
    never less than the vendor's. None is chosen by an account that knows no job of ours: it may be another's.
    """
    # guard charges.own_account: an account with none of our jobs ends what all jobs in doubt may cost
    if not found.both and not found.sums:
        return []
    # guard charges.listed_by_now: a job that its vendor does not list yet counts in no budget
    judged = [job for job in (*found.only_ours, *found.summed) if first <= job.sent_at < before and job.cost_microusd]
    doubtful = [job for job in judged if job.vendor_id is None]
    doubtful.sort(key=lambda job: (-(job.cost_microusd or 0), job.key))
    if not found.sums:
        # guard charges.maybe_ours: a job at the vendor whose answer was lost counts in no budget
        return doubtful[len(found.only_theirs) :]
    known = sum(job.cost_microusd or 0 for job in judged if job.vendor_id is not None)
    room, dropped = (found.theirs_nanousd or 0) - known * NANO_IN_MICRO, []
    for job in doubtful:
        # guard charges.room: what a vendor's sum has beside our known jobs counts in no budget
        if room > 0:
            room -= (job.cost_microusd or 0) * NANO_IN_MICRO
        else:
            dropped.append(job)
    return dropped


def _total(costs: Sequence[int | None]) -> int | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
