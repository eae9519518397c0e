"""Choose which provider of its model makes a job: the one with the fewest expected dollars for a delivered clip. Pure.

A vendor also charges for some jobs that bring no video, and may take more or less than the book has, so an offer costs
its price, corrected by what was taken lately, and its share of those jobs. It counts only while its provider is
healthy, every budget has room for its cost, and the job would begin soon enough there.

>>> fal, runway = Offered("fal", 400_000), Offered("runway", 300_000, Record(delivered=60, charged_failures=40))
>>> for verdict in choose([fal, runway], RoutingPolicy()).verdicts:
...     print(verdict.provider, verdict.expected_microusd, verdict.reason)
fal 400000 chosen
runway 450000 dearer
"""

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

_TRUSTED: Final = 20  # deliveries that are presumed of each, so that two failures in a row do not decide
_BOOKED: Final = 2  # jobs at the booked price that are presumed, so that one odd bill does not decide
_KEPT: Final = 0.99  # of what is known, with each further job: the last hundred or so count


class RoutingPolicy(BaseModel):
    """The choice between the providers of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["cheapest", "first"] = Field(
        "cheapest",
        description="cheapest: the offer with the fewest expected dollars for a delivered clip; first: the first one "
        "of the catalogue",
    )
    wait_limit_seconds: int | None = Field(
        600,
        ge=0,
        le=86_400,
        description="Seconds within which a job is expected to begin at an offer, for it to count; never: however late",
    )


class Record(NamedTuple):
    """How a provider's last jobs of a model ended; earlier ones count less."""

    delivered: float = 0.0
    charged_failures: float = 0.0  # charged, or perhaps charged, without a video
    stated: float = 0.0  # of the delivered: those whose cost the vendor stated, at the price that has this mark
    ratios: float = 0.0  # the sum of those costs, each in units of the booked one
    price_mark: str = ""

    def after(self, *, is_delivered: bool, price_mark: str = "", ratio: float | None = None) -> "Record":
        """Return the record with one more job; `ratio` is its cost in units of the booked one, if that was stated."""
        found = self.at(price_mark)
        delivered, failures, stated, ratios = (figure * _KEPT for figure in found[:4])
        is_stated = ratio is not None
        return Record(
            delivered + is_delivered,
            failures + (not is_delivered),
            stated + is_stated,
            ratios + (ratio or 0),
            price_mark,
        )

    def at(self, price_mark: str) -> "Record":
        """Return the record without what was stated of another price."""
        # guard routing.another_price: a price that a person has corrected is corrected a second time
        return self if price_mark == self.price_mark else self._replace(stated=0.0, ratios=0.0)


class Offered(NamedTuple):
    """A provider that can make a job, and what is known of it now."""

    provider: str
    cost_microusd: int  # of a job that is delivered
    record: Record = Record()
    is_healthy: bool = True
    has_budget: bool = True  # for this cost, in every scope of the job
    places: int | None = None  # jobs at once, by its caps and its tuned limit; None: no limit
    ahead: int = 0  # its jobs that run, or wait to be sent
    job_seconds: float = 0.0  # that a job takes there
    held_seconds: float = 0.0  # in which it is sent nothing
    seconds_between: float = 0.0  # sends

    @property
    def expected_microusd(self) -> Fraction:
        """The expected cost of a delivered clip: that of its own job, and of charged ones that bring nothing."""
        record = self.record
        # guard routing.failures: a vendor that charges for what it does not deliver is taken for a cheap one
        lost = Fraction(record.charged_failures) / (Fraction(record.delivered) + _TRUSTED)
        # guard routing.stated: a vendor that takes more than the book has is taken for a cheap one
        stated = (Fraction(record.ratios) + _BOOKED) / (Fraction(record.stated) + _BOOKED)
        return self.cost_microusd * stated * (1 + lost)

    @property
    def wait_seconds(self) -> float:
        """The seconds until a place is expected to be free; those ahead leave one after the other."""
        # guard routing.held: a job that is to begin soon goes to a vendor that takes none for an hour
        wait = self.held_seconds + self.ahead * self.seconds_between
        if self.places is None or self.ahead < self.places:
            return wait
        return max((self.ahead - self.places + 1) * self.job_seconds / self.places, wait)


class Reason(StrEnum):
    """Why an offer was chosen, or was not."""

    CHOSEN = "chosen"
    UNWELL = "its provider is failing"
    BUDGET = "no budget is left for it"
    LATE = "it would begin too late"
    DEARER = "dearer"
    LATER = "later in the catalogue"


class Verdict(NamedTuple):
    """The reason about one offer, with what it was judged by."""

    provider: str
    reason: Reason
    expected_microusd: int  # for a delivered clip
    wait_seconds: float


class Choice(NamedTuple):
    """The provider that gets a job; None: it waits for its own. And a verdict on each offer, in their order."""

    provider: str | None
    verdicts: tuple[Verdict, ...]


def choose(offers: Sequence[Offered], policy: RoutingPolicy) -> Choice:
    """Choose one of a job's offers, which stand in the order of the catalogue; equally cheap ones by that order.

    Where each would begin too late, it is the one that begins first.
    """
    # guard routing.possible: a job goes to a provider that fails it, or beyond a budget, because it is cheap there
    possible = [offer for offer in offers if offer.is_healthy and offer.has_budget]
    soon = [offer for offer in possible if _is_soon(offer, policy)]
    chosen: Offered | None
    if soon:
        chosen = min(soon, key=lambda offer: offer.expected_microusd) if policy.rule == "cheapest" else soon[0]
    else:
        chosen = min(possible, key=lambda offer: (offer.wait_seconds, offer.expected_microusd), default=None)
    verdicts = tuple(
        Verdict(
            offer.provider,
            Reason.CHOSEN if offer is chosen else _against(offer, policy),
            round(offer.expected_microusd),
            offer.wait_seconds,
        )
        for offer in offers
    )
    return Choice(chosen.provider if chosen else None, verdicts)


def _against(offer: Offered, policy: RoutingPolicy) -> Reason:
    if not offer.is_healthy:
        return Reason.UNWELL
    if not offer.has_budget:
        return Reason.BUDGET
    if not _is_soon(offer, policy):
        return Reason.LATE
    return Reason.DEARER if policy.rule == "cheapest" else Reason.LATER


def _is_soon(offer: Offered, policy: RoutingPolicy) -> bool:
    return policy.wait_limit_seconds is None or offer.wait_seconds <= policy.wait_limit_seconds
