"""Compare the catalogue with what vendors publish: prices, limits and ends of models. Pure."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from reelkeeper.model.money import Published, PublishedRate
from reelkeeper.rules.billing.catalogue import ModelEntry, Rate, VendorPrice

_TIMES: Final = 10  # of the catalogue, above and below which a price is a mistake of somebody's
_ROUNDED_USD: Final = Decimal("0.001")  # by which the catalogue may round a price up


class Compared(NamedTuple):
    """A model at one provider beside what is published: the entry as it should be, and what a person must look up.

    `after` is None where the provider no longer makes the model. `warnings` change nothing.
    """

    model: str
    provider: str
    before: ModelEntry
    after: ModelEntry | None
    source: str
    unclear: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Check whether the catalogue has to be changed, or looked at."""
        return self.after != self.before or bool(self.unclear)


def compare(entry: ModelEntry, provider: str, lists: Sequence[Published], today: date) -> Compared:
    """Compare a model at one provider with the lists that have it; each field with the first list that says it."""
    here = entry.at(provider)
    named = " and ".join(dict.fromkeys(found.source for found in lists))
    if any(found.ends_on and found.ends_on <= today for found in lists) or not lists[0].is_listed:
        rest = tuple(offer for offer in entry.offers if offer.provider != provider)
        if rest and len(rest) == len(entry.offers):
            ended = (f"{named}: {provider} no longer makes it; name the provider of one of its offers first",)
            return Compared(entry.model, provider, entry, entry, named, ended)
        after = entry.model_copy(update={"offers": rest}) if len(rest) < len(entry.offers) else None
        return Compared(entry.model, provider, entry, after, named)
    unclear, warnings, changed = list[str](), list[str](), here
    priced = next((found for found in lists if found.rates), None)
    if priced:
        changed, told, odd = _priced(here, priced, today)
        unclear += told
        warnings += odd
    for found in lists:
        changed = changed.model_copy(update={"limits": _limited(changed, found)})
        if found.ends_on:
            warnings.append(f"{found.source}: it ends on {found.ends_on}")
    try:
        after = ModelEntry.model_validate(_put(entry, provider, changed).model_dump())
    except ValidationError as error:
        unclear.append(str(error.errors()[0]["msg"]).removeprefix("Value error, "))
        after = entry
    return Compared(entry.model, provider, entry, after, named, tuple(unclear), tuple(warnings))


def _priced(here: ModelEntry, found: Published, today: date) -> tuple[ModelEntry, list[str], list[str]]:
    """Return the entry at the published prices, and what is unclear or absurd about them."""
    price = here.price
    if not isinstance(price, VendorPrice):
        return here, [], [f"{found.source} has a price for each {found.unit}, and the catalogue a flat one"]
    if found.unit != price.unit:
        return here, [], [f"{found.source} has a price for each {found.unit}, the catalogue for each {price.unit}"]
    if found.is_base and len(price.rates) > 1:
        base = found.rates[0].usd
        is_known = any(_is_same(rate.usd, base) for rate in price.rates)
        told = f"{found.source}: ${base.normalize():f} for each {found.unit}, which none of the rates has"
        return here, [] if is_known else [told], []
    rates, odd = list[Rate](), list[str]()
    for rate in price.rates:
        usd = _usd_for(rate, found.rates, here.limits.resolutions)
        # guard catalogue.absurd: a price with its point in the wrong place is pasted into the policies
        if usd is not None and not (usd > 0 and usd <= rate.usd * _TIMES and rate.usd <= usd * _TIMES):
            odd.append(f"{found.source} has an absurd price: ${usd:f}, and the catalogue ${rate.usd.normalize():f}")
            usd = None
        rates.append(rate if usd is None or _is_same(rate.usd, usd) else rate.model_copy(update={"usd": usd}))
    if tuple(rates) == price.rates:
        return here, [], odd
    new = {"rates": tuple(rates), "source": found.source, "read_on": today}
    return here.model_copy(update={"price": price.model_copy(update=new)}), [], odd


def _is_same(booked: Decimal, published: Decimal) -> bool:
    return Decimal(0) <= booked - published < _ROUNDED_USD


def _usd_for(rate: Rate, published: Sequence[PublishedRate], resolutions: Sequence[str]) -> Decimal | None:
    """Return the highest published price of the clips that a rate is for; None: there is none."""
    wanted = {rate.resolution} if rate.resolution else set(resolutions)
    fits = [
        one
        for one in published
        if (not wanted or one.resolution is None or one.resolution in wanted)
        and (None in (one.audio, rate.audio) or one.audio == rate.audio)
    ]
    exact = [one for one in fits if one.resolution is not None]
    usd = max((one.usd for one in exact or fits), default=None)
    # Beside prices of other sizes, one of all sizes is the lowest: a size that is not named may cost more.
    is_lowest = not exact and any(one.resolution for one in published)
    return max(usd, rate.usd) if usd is not None and is_lowest else usd


def _limited(here: ModelEntry, found: Published) -> Any:  # noqa: ANN401  ModelLimits, with fewer values
    """Return the limits without what the vendor does not make; what it makes beyond them is our choice."""
    limits, new = here.limits, dict[str, Any]()
    for name in ("seconds", "resolutions", "aspects"):
        ours, theirs = getattr(limits, name), getattr(found, name)
        kept = tuple(value for value in ours if value in theirs) if ours else theirs
        if theirs and kept != ours and not (name == "seconds" and limits.most_seconds and not ours):
            new[name] = kept or theirs
    if limits.most_seconds and found.seconds and limits.most_seconds > max(found.seconds):
        new["most_seconds"] = max(found.seconds)
    if found.has_sound is False and limits.audio != "never":
        new["audio"] = "never"
    return limits.model_copy(update=new) if new else limits


def _put(entry: ModelEntry, provider: str, here: ModelEntry) -> ModelEntry:
    """Return the entry with what it has at one provider."""
    if provider not in {offer.provider for offer in entry.offers}:
        return here
    offers = tuple(
        offer.model_copy(
            update={"price": here.price} | ({"limits": here.limits} if here.limits != entry.at(provider).limits else {})
        )
        if offer.provider == provider
        else offer
        for offer in entry.offers
    )
    return entry.model_copy(update={"offers": offers})
