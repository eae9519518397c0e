"""Find where users' requests would have cost less: at another provider, without sound, or not made again. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from reelkeeper.model.jobs import Repeated
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.billing.catalogue import Clip, ModelEntry, VendorPrice, clip_of
from reelkeeper.rules.billing.quote import PriceBook


class EqualRequests(NamedTuple):
    """A request that became a video, the provider that made it, and the number of equal ones."""

    request: GenerationRequest
    provider: str | None
    jobs: int


class Cheaper(NamedTuple):
    """A cheaper way to make the clips of a model, and the saving on a month's clips."""

    model: str
    provider: str | None  # None: the present one, without sound where requests left it open
    jobs: int
    usd: Decimal


class Repeat(StrEnum):
    """Why a video was made although its request had been answered before."""

    RETRIED = "retried"  # by the same user within an hour: one request, sent under two idempotency keys
    AGAIN = "again"  # later, when the cache no longer had it
    NOT_SHARED = "not_shared"  # for another user, who may not be given the first one's


class Spent(NamedTuple):
    """The number of jobs, and their cost in micro-dollars."""

    jobs: int = 0
    microusd: int = 0


_A_RETRY: Final = timedelta(hours=1)


def by_cause(jobs: Iterable[Repeated]) -> Mapping[Repeat, Spent]:
    """Sum jobs that made a video again, by the reason."""
    found = dict.fromkeys(Repeat, Spent())
    for is_same_entry, after, microusd in jobs:
        cause = Repeat.AGAIN if is_same_entry else Repeat.NOT_SHARED
        if after is not None and after <= _A_RETRY:
            cause = Repeat.RETRIED
        found[cause] = Spent(found[cause].jobs + 1, found[cause].microusd + microusd)
    return found


def cheaper(requests: Iterable[EqualRequests], book: PriceBook) -> list[Cheaper]:
    """Compare the cost of clips as made with each other way in the catalogue, the cheapest first.

    A way counts for all clips that it can make, including those that would cost more. Flat prices are left out: they
    do not depend on the clip.
    """
    jobs, saved = defaultdict[tuple[str, str | None], int](int), defaultdict[tuple[str, str | None], Decimal](Decimal)
    for request, provider, count in requests:
        entry = book.entry(request.model)
        if entry is None or (now := _cost_usd(entry.at(provider), clip_of(request))) is None:
            continue
        ways: dict[str | None, Decimal | None] = {
            other: _cost_usd(entry.at(other), clip_of(request))
            for other in entry.able_providers(request)
            if other != entry.at(provider).provider
        }
        if request.audio is None and entry.at(provider).limits.audio == "choice":
            ways[None] = _cost_usd(entry.at(provider), clip_of(request)._replace(audio=False))
        for way, usd in ways.items():
            if usd is not None:
                jobs[request.model, way] += count
                saved[request.model, way] += (now - usd) * count
    found = [Cheaper(*way, jobs[way], usd) for way, usd in saved.items() if usd > 0]
    return sorted(found, key=lambda each: (-each.usd, each.model, each.provider or ""))


def _cost_usd(entry: ModelEntry, clip: Clip) -> Decimal | None:
    """Return the vendor's price of a clip; None where no rate fits, or the price is flat."""
    amounts = (
        entry.price.amounts(entry.limits.resolve_audio(clip), Decimal(0))
        if isinstance(entry.price, VendorPrice)
        else None
    )
    return amounts and amounts[0]
