"""Find the cheapest clip that a provider's models in the catalogue can make, by the vendor's prices. Pure."""

from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from itertools import product
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.billing.catalogue import ModelEntry, VendorPrice, clip_of
from reelkeeper.rules.billing.quote import PriceBook

_PROMPT: Final = "a grey cube turns slowly on a white table"
_SECONDS: Final = Decimal(4)  # of a model that makes any length
_SHORT_SIDES: Final = ("480p", "720p")  # of a model that makes any size


class CheapClip(NamedTuple):
    """A clip to order, and what its vendor takes, in micro-dollars. All of it can be kept as JSON."""

    model: str
    vendor_model: str
    request: dict[str, Any]
    cost_microusd: int
    gpu_second_usd: str | None


def cheapest(book: PriceBook, provider: str, *, is_default: bool) -> CheapClip | None:
    """Return the clip; None where the catalogue has no vendor's price of the provider.

    `is_default`: models without a named provider are made by it.
    """
    found = list[CheapClip]()
    for listed in book.models:
        if provider in listed.providers or (is_default and not listed.providers):
            found += _clips(listed.at(provider))
    return min(found, key=lambda clip: clip.cost_microusd, default=None)


def _clips(entry: ModelEntry) -> Iterator[CheapClip]:
    price, limits = entry.price, entry.limits
    if not isinstance(price, VendorPrice):
        return
    sides = limits.resolutions or tuple({rate.resolution for rate in price.rates if rate.resolution}) or _SHORT_SIDES
    lengths = limits.seconds or (min(_SECONDS, limits.most_seconds or _SECONDS),)
    for side, aspect, seconds, audio in product(sides, limits.aspects or ("16:9",), lengths, (None, False)):
        wide, high = map(int, aspect.split(":"))
        each = int(side[:-1]) / min(wide, high)
        try:
            request = GenerationRequest(
                model=entry.model,
                prompt=_PROMPT,
                width=round(wide * each / 2) * 2,
                height=round(high * each / 2) * 2,
                duration_seconds=float(seconds),
                audio=audio,
            )
        except ValidationError:  # larger than we sell
            continue
        amounts = price.amounts(limits.resolve_audio(clip_of(request)), Decimal(0))
        if amounts and entry.refusal(request) is None:
            cost = int((amounts[0] * 10**6).to_integral_value(ROUND_CEILING))
            usd = entry.gpu_second_usd(request.model_dump())
            gpu, order = None if usd is None else str(usd), limits.ordered(request.model_dump(mode="json"))
            yield CheapClip(entry.model, entry.quoted_model or entry.model, order, cost, gpu)
