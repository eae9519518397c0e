"""Account for the bytes stored, read and written on each day of a simulation, and R2's monthly price for them.

Days count from the start. A day's peak is the larger of the bytes stored at its beginning and at its end; its bill is
that of `reelkeeper bill`: `compute_charges` prices both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

import numpy as np

from reelkeeper.model.money import NANO, Metric, StorageClass, Used, next_month
from reelkeeper.rules.billing.allocation import compute_charges
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import RATES
from reelkeeper.simulation.lifecycle_limits import Ints

PERIOD_DAYS: Final = 30  # views, and uploads, of so many days come again
ENCODE_READS: Final = 2  # of the source: its bytes and its headers; the result is read back once, and written once
_KINDS: Final = (StorageClass.STANDARD, StorageClass.INFREQUENT_ACCESS)
_WRITE: Final = {
    StorageClass.STANDARD: "PutObject",
    StorageClass.INFREQUENT_ACCESS: "LifecycleStorageTierTransition",
}


class Bytes(NamedTuple):
    """Objects as columns, in days: stored from `since` (-1: before the start) until `until`, served a while."""

    sizes: Ints
    written: Ints  # the first midnight after they were written, negative before the start: their age counts from it
    since: Ints
    until: Ints
    served_from: Ints
    served_until: Ints


class Reads(NamedTuple):
    """Recorded views: place of the object among the columns, day and count."""

    places: Ints
    days: Ints
    counts: Ints


@dataclass(slots=True)
class Account:
    """A bucket's bytes and operations on each day; all are sums, so the parts may be added in any order.

    `infrequent_after_days`: a lifecycle rule of R2 moves objects of that age to Infrequent Access.
    """

    days: int
    today: int  # from which on views are assumed
    infrequent_after_days: int | None = None
    stored: dict[StorageClass, Ints] = field(default_factory=dict)  # changes, the first of them before day 0
    writes: dict[StorageClass, Ints] = field(default_factory=dict)
    reads: dict[StorageClass, Ints] = field(default_factory=dict)
    again: dict[StorageClass, Ints] = field(default_factory=dict)  # changes by day of the period and period
    again_bytes: Ints = field(init=False)
    retrieved: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Start empty."""
        repeats = (PERIOD_DAYS, self.days // PERIOD_DAYS + 4)
        for kind in _KINDS:
            self.stored[kind] = np.zeros(self.days + 2, dtype=np.int64)
            self.writes[kind] = np.zeros(self.days, dtype=np.int64)
            self.reads[kind] = np.zeros(self.days, dtype=np.int64)
            self.again[kind] = np.zeros(repeats, dtype=np.int64)
        self.again_bytes, self.retrieved = np.zeros(repeats, dtype=np.int64), np.zeros(self.days, dtype=np.int64)

    def keep(self, size_bytes: int, until: int | None = None) -> None:
        """Add objects stored before the start, until a day or for good."""
        self._store(StorageClass.STANDARD, *(np.array([value]) for value in (-1, self._end(until), size_bytes)))

    def add(self, objects: Bytes, reads: Reads) -> None:
        """Add objects, and count one read of the whole object for each of their views."""
        end = np.minimum(objects.until, self.days)
        _count(self.writes[StorageClass.STANDARD], objects.since)
        moved = self.moved(objects)
        cold = moved < end
        self._store(StorageClass.STANDARD, objects.since, np.where(cold, moved, end), objects.sizes)
        if cold.any():
            least = RATES[StorageClass.INFREQUENT_ACCESS].minimum_days
            until = np.minimum(np.maximum(objects.until, moved + least), self.days)[cold]
            self._store(StorageClass.INFREQUENT_ACCESS, moved[cold], until, objects.sizes[cold])
            _count(self.writes[StorageClass.INFREQUENT_ACCESS], moved[cold])
            self._serve(StorageClass.INFREQUENT_ACCESS, objects, reads, moved, objects.served_until)
        self._serve(StorageClass.STANDARD, objects, reads, objects.served_from, np.minimum(objects.served_until, moved))

    def encode(self, objects: Bytes, on: Ints) -> None:
        """Count the reads of objects that are encoded on a day; the result itself is added as an object."""
        cold = self.moved(objects) <= on
        for kind, chosen in ((StorageClass.STANDARD, ~cold), (StorageClass.INFREQUENT_ACCESS, cold)):
            _count(self.reads[kind], np.repeat(on[chosen], ENCODE_READS))
        np.add.at(self.retrieved, on[cold], objects.sizes[cold])
        _count(self.reads[StorageClass.STANDARD], on)

    def moved(self, objects: Bytes) -> Ints:
        """Give the day on which each object moves to Infrequent Access; after the last day if it does not."""
        if self.infrequent_after_days is None:
            return np.full(len(objects.sizes), self.days + 1)
        at: Ints = np.maximum(np.maximum(objects.written + self.infrequent_after_days, objects.since), 0)
        return at

    def settle(self) -> None:
        """Add the repeated reads to their days."""
        for kind in _KINDS:
            _spread(self.again[kind], self.reads[kind], self.today)
        _spread(self.again_bytes, self.retrieved, self.today)

    def shift_in(self, other: "Account", by: int) -> None:
        """Add another settled account, shifted by a number of days; nothing of it was stored before its start."""
        for kind in _KINDS:
            _shift(other.stored[kind], self.stored[kind], by)
            _shift(other.writes[kind], self.writes[kind], by)
            _shift(other.reads[kind], self.reads[kind], by)
        _shift(other.retrieved, self.retrieved, by)

    def peaks(self, kind: StorageClass) -> Ints:
        """Give the peak of stored bytes on each day."""
        ends = np.cumsum(self.stored[kind])[: self.days + 1]
        most: Ints = np.maximum(ends[:-1], ends[1:])
        return most

    def begin(self) -> int:
        """Give the bytes stored at the start."""
        return sum(int(changes[0]) for changes in self.stored.values())

    def ends(self) -> Ints:
        """Give the bytes stored at the end of each day."""
        both: Ints = sum((np.cumsum(self.stored[kind]) for kind in _KINDS), start=np.zeros(self.days + 2, np.int64))
        return both[1 : self.days + 1]

    def operations(self, first: int, end: int) -> tuple[int, int, int]:
        """Sum the writes, the reads and the bytes retrieved from Infrequent Access of some days."""
        writes, reads = (
            sum(int(counts[first:end].sum()) for counts in by.values()) for by in (self.writes, self.reads)
        )
        return writes, reads, int(self.retrieved[first:end].sum())

    def used(self, start: date) -> Iterator[Used]:
        """Give the bucket's metered usage on each day."""
        peaks = {kind: self.peaks(kind) for kind in _KINDS}
        for place in range(self.days):
            day = start + timedelta(days=place)
            for kind in _KINDS:
                counted = ((_WRITE[kind], self.writes[kind]), ("GetObject", self.reads[kind]))
                if kind is StorageClass.STANDARD or peaks[kind].any():
                    yield Used(day, Metric.STORED_BYTES, int(peaks[kind][place]), storage_class=kind)
                for action, counts in counted:
                    if counts[place]:
                        yield Used(day, Metric.OPERATIONS, int(counts[place]), resource=action, storage_class=kind)
            if self.retrieved[place]:
                kind = StorageClass.INFREQUENT_ACCESS
                yield Used(day, Metric.RETRIEVED_BYTES, int(self.retrieved[place]), storage_class=kind)

    def bills(self, start: date) -> dict[date, Decimal]:
        """Give R2's bill of each month, by its first day; days before the start count as empty."""
        by_month: dict[date, list[Used]] = {}
        for usage in self.used(start):
            by_month.setdefault(usage.day.replace(day=1), []).append(usage)
        found = {}
        for month, used in by_month.items():
            end = next_month(month)
            charges = compute_charges(used, PriceBook(), month, end)
            found[month] = Decimal(sum(charge.billed_nanousd for charge in charges)) / NANO
        return found

    def _end(self, until: int | None) -> int:
        return self.days if until is None else min(until, self.days)

    def _store(self, kind: StorageClass, since: Ints, until: Ints, sizes: Ints) -> None:
        some = (since < until) & (since < self.days)
        np.add.at(self.stored[kind], since[some] + 1, sizes[some])
        np.subtract.at(self.stored[kind], until[some] + 1, sizes[some])

    def _serve(self, kind: StorageClass, objects: Bytes, reads: Reads, since: Ints, until: Ints) -> None:
        """Count the reads of objects by views from one day until another: as recorded, and from today on as assumed."""
        first, end = np.maximum(since, objects.served_from)[reads.places], until[reads.places]
        end = np.minimum(end, self.days)
        cold = kind is StorageClass.INFREQUENT_ACCESS
        seen = (reads.days >= first) & (reads.days < end) & (reads.days >= 0)
        np.add.at(self.reads[kind], reads.days[seen], reads.counts[seen])
        if cold:
            sizes = objects.sizes[reads.places]
            np.add.at(self.retrieved, reads.days[seen], reads.counts[seen] * sizes[seen])
        recent = reads.days >= self.today - PERIOD_DAYS
        lower = np.maximum(-((reads.days - first) // PERIOD_DAYS), 1)
        upper = np.maximum(-((reads.days - end) // PERIOD_DAYS), 1)
        recent &= lower < upper
        phase = reads.days[recent] - (self.today - PERIOD_DAYS)
        for table, amounts in [
            (self.again[kind], reads.counts),
            *([(self.again_bytes, reads.counts * sizes)] if cold else []),
        ]:
            np.add.at(table, (phase, lower[recent]), amounts[recent])
            np.subtract.at(table, (phase, upper[recent]), amounts[recent])


def _count(into: Ints, days: Ints) -> None:
    within = days[(days >= 0) & (days < len(into))]
    into += np.bincount(within, minlength=len(into))


def _spread(again: Ints, into: Ints, today: int) -> None:
    """Convert changes by day of the period and period to amounts on days."""
    amounts = np.cumsum(again, axis=1)
    for period in range(1, again.shape[1]):
        first = today + (period - 1) * PERIOD_DAYS
        room = len(into) - first
        if room > 0:
            into[first : first + PERIOD_DAYS] += amounts[:room, period]


def _shift(source: Ints, into: Ints, by: int) -> None:
    count = min(len(source), len(into) - by)
    if count > 0:
        into[by : by + count] += source[:count]
