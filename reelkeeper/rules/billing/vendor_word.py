"""Judge what a vendor says that a job cost: whether it can be believed, and whether the book is wrong. Pure.

A vendor's word beats the book, within bounds: an absurd figure is an alert, and not a cost. Users pay what they were
quoted, whatever it says.

>>> [VendorWord("fal", "veo", 400_000, usd * 10**6).is_believed for usd in (0, 1, 10, 11)]
[False, True, True, False]
"""

from decimal import Decimal
from typing import Final, NamedTuple

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import MICRO

RULE: Final = "vendor_cost"  # the alert's
_TIMES: Final = 10  # of the book, above and below which a figure is not believed
_ALWAYS_MICROUSD: Final = 10_000_000  # is believed, as one clip in a hundred may cost as much
_FAR_PERCENT: Final = 10  # from the book, beyond which people are told
_OWN: Final = {
    "http",
    "comfyui",
    "local",
}  # servers of one's own, which may well cost less than the book has, or nothing


class VendorWord(NamedTuple):
    """The cost of a job that its vendor states, and the booked one, in micro-dollars."""

    provider: str
    model: str
    booked_microusd: int
    reported_microusd: int
    is_delivered: bool = True  # else it may cost anything down to nothing

    @property
    def is_believed(self) -> bool:
        """Check whether it can be a cost."""
        least = self.booked_microusd if self.is_delivered and self.provider not in _OWN else 0
        most = max(self.booked_microusd * _TIMES, _ALWAYS_MICROUSD)
        return least <= self.reported_microusd * _TIMES <= most * _TIMES

    def finding(self, job_id: str, price_mark: str, day: str) -> Finding | None:
        """Make the finding that the book is wrong, once for each of its prices, or a figure absurd, once a day."""
        said, booked = (f"${Decimal(amount) / MICRO:,.4f}" for amount in (self.reported_microusd, self.booked_microusd))
        if not self.is_believed:
            period, title = day, f"{self.provider} states an absurd cost for a job of {self.model}"
            text = f"{said} for job {job_id}, which the book has at {booked}: it counts as the book has it."
        elif self._is_far:
            more = "more" if self.reported_microusd > self.booked_microusd else "less"
            period, title = price_mark, f"{self.provider} takes {more} for {self.model} than the book has"
            text = (
                f"{said} for job {job_id}, which the book has at {booked}. Budgets, the bill and the choice between "
                "offers follow what it takes. Users pay what they were quoted."
            )
        else:
            return None
        return Finding(
            rule=RULE,
            scope=f"model:{self.model}",
            period=f"{self.provider} {period}",
            severity=Severity.WARNING,
            title=title,
            text=text,
            suggestion="Compare its price under `book.models` of the policies with the vendor's price list.",
        )

    @property
    def _is_far(self) -> bool:
        if not self.is_delivered:
            return False
        difference = (self.reported_microusd - self.booked_microusd) * 100
        if self.provider in _OWN:
            return difference > self.booked_microusd * _FAR_PERCENT
        return abs(difference) > self.booked_microusd * _FAR_PERCENT
