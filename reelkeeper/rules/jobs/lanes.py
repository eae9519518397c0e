"""Decide how many jobs a vendor is sent at once, and how fast, by what it has accepted and refused. Pure.

A refusal such as 429 speaks for the vendor, not for the job: it holds the vendor's lane, and the job waits with the
others. What follows depends on what the refusal is about:

- Too many at once: the limit falls to what the vendor has accepted, at least 1. Each job of ours that ends there frees
  one send. If that is refused as well, nothing is sent for the whole Retry-After. After it, one job more than the limit
  is tried: if it is accepted, the limit rises by one and the next is tried; else the wait doubles.
- Too fast: nothing is sent for the whole Retry-After, and then the sends are spaced by what was accepted before.
- Neither is said, and the vendor has nothing of ours: nothing is sent for the whole Retry-After.

A vendor that has never refused a job is sent a few, and then twice as many as it has accepted, so that a crowd finds
its limit at the cost of a few refusals.

>>> noon = datetime.fromisoformat("2026-11-28T12:00:00Z")
>>> lane = Lane().refused(Refusal(30, is_rate=False, sent_at=noon), There(accepted=2), noon)
>>> lane.limit, lane.room(There(accepted=2), noon), lane.room(There(accepted=1), noon)
(2, 0, 1)
>>> lane.room(There(accepted=2), noon + timedelta(seconds=40))
1
"""

import math
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

_FIRST: Final = 4  # jobs at a vendor that never refused one, until it has accepted half as many
_JITTER: Final = 0.1  # of a hold in addition, so that those who share an account do not come back at the same moment
_SHORTEST_SECONDS: Final = 1.0  # of a hold, whatever the vendor says
_LONGEST_SECONDS: Final = 600.0  # of a hold that grows as one more job is refused again and again
_DOUBLINGS: Final = 10
_GAPS_SECONDS: Final = 0.05, 60.0  # the shortest and the longest time between two sends; a shorter one is forgotten
_LONGER: Final = 1.25  # times the gap at which sends were refused again, at least
_SHORTER: Final = 0.98  # times the gap, after each send: half of it after 34
_AHEAD_SECONDS: Final = 2.0  # for which spaced sends are begun ahead: workers look for jobs that often
_ANSWER_SECONDS: Final = 0.25  # until a vendor's answers to other sends are looked for again
_FULL_SECONDS: Final = 5.0  # the same, for a place at a vendor that has all it takes
RATE_LOOKS_BACK_SECONDS: Final = 60.0  # for the accepted sends from which their spacing is computed


class There(NamedTuple):
    """The jobs of ours that a vendor has: accepted ones, and those whose requests it has not answered.

    `pending` ones are about to be sent by a worker.
    """

    accepted: int = 0
    unanswered: int = 0
    pending: int = 0

    @property
    def sent(self) -> int:
        """The jobs that it may be working on."""
        return self.accepted + self.unanswered


class Refusal(NamedTuple):
    """A vendor's answer that it takes no further job, and what it had accepted shortly before, as far as it matters.

    `jitter` is a random number from 0 to 1, from the caller.
    """

    seconds: float  # for which it asks us to wait
    is_rate: bool | None  # as in ProviderFull
    sent_at: datetime  # the refused request
    key: str = ""  # under which it was sent
    accepted_lately: int = 0  # sends of the last minute
    first_lately: datetime | None = None
    jitter: float = 0.0


class Lane(BaseModel):
    """What a vendor takes, as far as it has shown; stored for each vendor."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    limit: int | None = None  # jobs at once; None: it has never refused one
    since: AwareDatetime | None = None  # when it was held last
    until: AwareDatetime | None = None
    is_shut: bool = False  # a job that ends frees no send meanwhile
    probe: str = ""  # the key of the last job that was sent beyond the limit
    misses: int = 0  # how often one more than the limit was refused, in a row
    gap_seconds: float = 0.0  # between two sends
    next_at: AwareDatetime | None = None  # of the next one

    def held_until(self, as_of: datetime) -> datetime | None:
        """Return until when nothing more is sent than jobs that end make room for; None: it is not held."""
        ends = [at for at in (self.until, self.next_at) if at and at > as_of]
        return max(ends, default=None)

    def shut_seconds(self, as_of: datetime) -> float:
        """Return the seconds in which nothing is sent, whatever ends."""
        ends = [self.next_at, self.until if self.is_shut else None]
        return max((max((at - as_of).total_seconds(), 0.0) for at in ends if at), default=0.0)

    def places(self, seconds: float) -> int | None:
        """Return how many jobs of so many seconds it can have at once, one more than known; None: any number."""
        found = [self.limit + 1] if self.limit is not None else []
        found += [1 + math.ceil(seconds / self.gap_seconds)] if self.gap_seconds else []
        return min(found, default=None)

    def room(self, there: There, as_of: datetime) -> int | None:
        """Return how many further jobs may be given to workers now; None: any number."""
        rooms = list[int]()
        if self.gap_seconds and self.next_at:
            ahead = _AHEAD_SECONDS - (self.next_at - as_of).total_seconds()
            rooms.append(0 if ahead < 0 else 1 + int(min(ahead, _AHEAD_SECONDS) / self.gap_seconds) - there.pending)
        if self._is_held(as_of) and self.is_shut:
            rooms.append(0)
        elif self.limit is not None:
            rooms.append(self._most(there.sent, as_of) - there.sent - there.pending)
        return max(min(rooms), 0) if rooms else None

    def wait_seconds(self, there: There, as_of: datetime) -> float:
        """Return the seconds until it is worth asking again whether a job may be sent; 0: it may be sent now."""
        # guard lanes.held: a vendor that asks to be left alone is asked again at once
        if seconds := self.shut_seconds(as_of):
            return seconds
        if self.limit is None:
            # guard lanes.first: a crowd is sent to a vendor before it could refuse one of them
            return _ANSWER_SECONDS if there.unanswered and there.sent >= max(_FIRST, 2 * there.accepted) else 0.0
        return 0.0 if there.sent < self._most(there.sent, as_of) else _FULL_SECONDS

    def after_sending(self, key: str, there: There, as_of: datetime) -> Self:
        """Return the lane after a send to a vendor that has `there`; the next keeps its distance, which shrinks."""
        lane = self
        if self.limit is not None and there.sent >= self.limit:
            lane = lane.model_copy(update={"probe": key})
        if not self.gap_seconds:
            return lane
        gap = self.gap_seconds * _SHORTER
        if gap < _GAPS_SECONDS[0]:
            return lane.model_copy(update={"gap_seconds": 0.0, "next_at": None})
        return lane.model_copy(update={"gap_seconds": gap, "next_at": as_of + timedelta(seconds=self.gap_seconds)})

    def after_accepting(self, accepted: int) -> Self:
        """Return the lane after a job was accepted, as one of so many: it takes at least these."""
        if self.limit is None or accepted < self.limit or (accepted == self.limit and not self.is_shut):
            return self
        misses = 0 if accepted > self.limit else self.misses
        return self.model_copy(update={"limit": accepted, "misses": misses, "is_shut": False})

    def refused(self, refusal: Refusal, there: There, as_of: datetime) -> Self:
        """Return the lane after a refusal, where the vendor has `there` without the refused job."""
        # guard lanes.one_crowd: requests that were under way when the first was refused lower the limit and add waits
        if self.since and refusal.sent_at <= self.since and self._is_held(as_of):
            return self
        if refusal.is_rate:
            return self._too_fast(refusal, as_of)
        if refusal.is_rate is None and not there.sent:
            return self._held(refusal, refusal.seconds, as_of, is_shut=True)
        if self.limit is not None and refusal.key == self.probe:
            misses = self.misses + 1
            seconds = min(refusal.seconds * 2 ** min(misses, _DOUBLINGS), max(refusal.seconds, _LONGEST_SECONDS))
            return self._held(refusal, seconds, as_of, is_shut=False).model_copy(update={"misses": misses})
        # guard lanes.again: a vendor that refuses a job in place of one that ended is asked again at once
        is_shut = self.limit is not None or not there.accepted
        held = self._held(refusal, refusal.seconds, as_of, is_shut=is_shut)
        return held.model_copy(update={"limit": max(1, there.accepted), "misses": 0})

    def _too_fast(self, refusal: Refusal, as_of: datetime) -> Self:
        first, shortest_longest = refusal.first_lately or as_of, _GAPS_SECONDS
        taken = (as_of - first).total_seconds() + refusal.seconds  # by so many accepted sends
        gap = max(taken / max(refusal.accepted_lately, 1), self.gap_seconds * _LONGER, shortest_longest[0])
        held = self._held(refusal, refusal.seconds, as_of, is_shut=True)
        return held.model_copy(update={"gap_seconds": min(gap, shortest_longest[1]), "next_at": held.until})

    def _held(self, refusal: Refusal, seconds: float, as_of: datetime, *, is_shut: bool) -> Self:
        until = as_of + timedelta(seconds=max(seconds, _SHORTEST_SECONDS) * (1 + _JITTER * refusal.jitter))
        return self.model_copy(update={"since": as_of, "until": until, "is_shut": is_shut})

    def _is_held(self, as_of: datetime) -> bool:
        return self.until is not None and as_of < self.until

    def _most(self, sent: int, as_of: datetime) -> int:
        """Return the jobs that the vendor may have: the limit, and one more where that is reached and not held."""
        limit = self.limit or 1
        # guard lanes.probe: a limit that was low once stays low for ever
        return limit + (sent >= limit and not self._is_held(as_of))
