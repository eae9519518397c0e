"""Keep to what each vendor takes: how many jobs at once, and how fast. Its lane is in the store, for all workers.

A worker asks before it sends a job, and notes what the vendor answers; claims leave out vendors that take no more. One
picture joins the lane of each vendor with its breaker, caps, tuned limit, budgets and prices.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from reelkeeper.errors import ProviderFull
from reelkeeper.operations.billing import limits as budgets
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import breaker
from reelkeeper.rules.billing.catalogue import Clip, VendorPrice
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.breaker import Phase
from reelkeeper.rules.jobs.caps import Room
from reelkeeper.rules.jobs.lanes import RATE_LOOKS_BACK_SECONDS, Lane, Refusal, There
from reelkeeper.store import Session
from reelkeeper.store.core.engine import now
from reelkeeper.store.jobs import lanes, vendor_jobs
from reelkeeper.store.jobs.slots import lane_limits

_CLIP: Final = Clip()  # 5 s in 720p


class VendorState(StrEnum):
    """Which jobs a vendor gets now."""

    OPEN = "open"  # all
    FULL = "full"  # one for each that ends there
    HELD = "held"  # none for a while, since it asked for that
    TRIAL = "trial"  # a few, to see whether it has recovered
    FAILING = "failing"  # none


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor, as it stands."""

    provider: str
    state: VendorState
    running: int  # jobs that it has, or is about to get
    parked: int  # jobs that it may have
    limit: int | None  # jobs at once, by its cap, its tuned limit and what it has shown to take; None: none is known
    held_until: datetime | None
    seconds_between: float  # sends, since it has refused faster ones; 0: they are not spaced
    budget_left_microusd: int | None  # of the tightest budget of its own; None: it has none
    usd_per_second: Decimal | None  # of its cheapest model that makes 5 s in 720p; None: none has such a price


def known(session: Session) -> dict[str, Lane]:
    """Read what each vendor takes that has refused a job."""
    return {name: Lane.model_validate(state) for name, state in lanes.known(session).items()}


def there(session: Session, otherwise: str | None = None) -> dict[str, There]:
    """Count the jobs that each vendor has and is about to get; those without one go to `otherwise`."""
    found = {name: There(accepted, unanswered) for name, accepted, unanswered in lanes.there(session)}
    for name, pending in lanes.pending(session, otherwise).items():
        found[name] = found.get(name, There())._replace(pending=pending)
    return found


def rooms(session: Session, as_of: datetime, otherwise: str | None) -> dict[str, int]:
    """Compute how many more jobs each vendor may get now, where that is limited."""
    found = known(session)
    at_them = there(session, otherwise) if found else {}
    more = {name: lane.room(at_them.get(name, There()), as_of) for name, lane in found.items()}
    return {name: room for name, room in more.items() if room is not None}


def limits(tuned: Mapping[str, int], found: Mapping[str, Lane]) -> dict[str, int]:
    """Return the lower of the tuned limit and what a vendor has shown to take, for each vendor with one of them."""
    shown = {name: lane.limit for name, lane in found.items() if lane.limit is not None}
    return {**tuned, **{name: min(limit, tuned.get(name, limit)) for name, limit in shown.items()}}


def require_room(session: Session, provider: str, key: str) -> None:
    """Raise ProviderFull if a vendor is not to get another job now, under `key`; else count it as sent.

    The transaction that calls it holds the deployment row, so that two do not take one place, and records the job.
    """
    state, as_of = lanes.find(session, provider), now(session)
    if state:
        state, as_of = lanes.locked(session, provider)
    lane = Lane.model_validate(state or {})
    at_it = _at(session, provider)
    if seconds := lane.wait_seconds(at_it, as_of):
        raise ProviderFull(f"provider {provider!r} takes no more jobs at the moment", seconds)
    _write(session, provider, lane, lane.after_sending(key, at_it, as_of))


def note_accepted(session: Session, provider: str) -> None:
    """Learn from a job that a vendor has accepted, which is about to be recorded."""
    if lanes.find(session, provider):
        state, _ = lanes.locked(session, provider)
        lane = Lane.model_validate(state)
        _write(session, provider, lane, lane.after_accepting(_at(session, provider).accepted + 1))


def note_refused(session: Session, provider: str, key: str, full: ProviderFull) -> None:
    """Learn from a job that a vendor has refused since it takes no more, which is still recorded as sent."""
    state, as_of = lanes.locked(session, provider)
    lane, at_it = Lane.model_validate(state), _at(session, provider)
    accepted, first = lanes.accepted_lately(session, provider, RATE_LOOKS_BACK_SECONDS, key)
    refusal = Refusal(
        full.seconds,
        full.is_rate,
        vendor_jobs.sent_at(session, key) or as_of,
        key,
        accepted,
        first,
        random.random(),  # noqa: S311  it spreads sends, and guards nothing
    )
    others = at_it._replace(unanswered=max(at_it.unanswered - 1, 0))
    _write(session, provider, lane, lane.refused(refusal, others, as_of))


def _at(session: Session, provider: str) -> There:
    return next((There(accepted, unanswered) for _, accepted, unanswered in lanes.there(session, provider)), There())


def _write(session: Session, provider: str, before: Lane, after: Lane) -> None:
    if after != before:
        lanes.write(session, provider, after.model_dump(mode="json"))


def picture(session: Session) -> list[Vendor]:
    """Describe the vendors of the catalogue, and those that have jobs or have refused some, by name."""
    policies, as_of = in_force(session).policies, now(session)
    ways, at_them, resting = known(session), there(session), breaker.resting(session, as_of)
    in_doubt = lanes.parked(session)
    limited = limits(lane_limits(session), ways)
    room = Room(policies.caps, (), limited)
    named = {name for entry in policies.book.models for name in entry.providers}
    names = named | ways.keys() | limited.keys() | at_them.keys() | resting.keys() | in_doubt.keys()
    return [
        Vendor(
            name,
            _state(resting[name].phase(as_of) if name in resting else Phase.CLOSED, lane, here, places, as_of),
            here.sent + here.pending,
            in_doubt.get(name, 0),
            places,
            lane.held_until(as_of),
            round(lane.gap_seconds, 3),
            budgets.left(session, policies.admission.spend_limits, f"provider:{name}"),
            min(_prices(policies.book, name), default=None),
        )
        for name in sorted(names)
        for lane, here, places in [
            (ways.get(name, Lane()), at_them.get(name, There()), room.places(f"provider:{name}"))
        ]
    ]


def _state(phase: Phase, lane: Lane, there: There, places: int | None, as_of: datetime) -> VendorState:
    if phase is not Phase.CLOSED:
        return VendorState.FAILING if phase is Phase.OPEN else VendorState.TRIAL
    if lane.shut_seconds(as_of):
        return VendorState.HELD
    is_full = lane.room(there, as_of) == 0 or (places is not None and there.sent + there.pending >= places)
    return VendorState.FULL if is_full else VendorState.OPEN


def _prices(book: PriceBook, provider: str) -> Iterator[Decimal]:
    for entry in book.models:
        if provider not in entry.providers or not isinstance(price := entry.at(provider).price, VendorPrice):
            continue
        if amounts := price.amounts(entry.at(provider).limits.resolve_audio(_CLIP), Decimal(0)):
            yield amounts[0] / _CLIP.seconds
