"""The sentences that explain lifecycle verdicts, and the format of amounts. The rules are in `lifecycle`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, Self

from reelkeeper.model import SearchTotals, Video

_DOLLAR_DIGITS: Final = 6  # what is summed is micro-dollars
_UNITS: Final = ("kB", "MB", "GB", "TB")  # powers of 1000, as R2 bills them
_STEP: Final = 1000
CONTRACT_NOT_TRIED: Final = (
    "What is due at keys of the service's stays until this bucket has shown that it keeps what their purge rests on: "
    "reelkeeper doctor --contract"
)
TRY_ANOTHER: Final = "reelkeeper simulate lifecycle --policy FILE"  # what other policies would bring
EXPECTED_SAVING: Final = "Expected until it is done; net is over the rest of a video's life, less CPU and requests."

SENTENCES: Final = {
    "held": "held: a person said that it stays",
    "unknown_age": "creation time unknown: kept until the catalogue has it",
    "future_created": "created {video.created_at}, which is after {terms.as_of}: kept, as a clock is wrong",
    "unknown_tier": "tier {video.tier!r} is none of {terms.tiers}: kept until it is known",
    "past_retention": "{age}: {retention}",
    "kept_on_request": "{age}, and kept on request until {video.kept_until:%Y-%m-%d %H:%M} UTC",
    "cold_rules_off": "{age}: {retention}, and no rule for cold videos is switched on",
    "too_young": "{age}: nothing happens up to {terms.first_step}",
    "unknown_views": "views of the last {terms.window} are not all recorded: kept until they are",
    "cold_retire": "{views} in {terms.window}, {age}: {terms.retiring}",
    "still_watched": "{views} in {terms.window}, {age}: {terms.compressing}, {terms.retiring}",
    "compressed_before": "{views} in {terms.window}, {age}, but compressed already",
    "already_efficient": "{views} in {terms.window}, {age}, but {video.codec} already",
    "refused_before": "{views} in {terms.window}, {age}, but this recipe was refused on it before",
    "in_place_not_tried": "{views} in {terms.window}, {age}, but this bucket has not shown what putting in place rests "
    "on: reelkeeper doctor --contract",
    "too_large_in_place": "{views} in {terms.window}, {age}, but larger than the 5 GiB that one put in place takes",
    "not_in_place": "{views} in {terms.window}, {age}, but not H.264 in MP4, which alone is put over in place",
    "locked_in_place": "{views} in {terms.window}, {age}, but a bucket lock keeps what stands at its key: "
    "tried again next month",
    "does_not_pay": "{views} in {terms.window}, {age}, but an encode would not pay",
    "cold_compress": "{views} in {terms.window}, {age}: {terms.compressing}",
}


class Terms(NamedTuple):
    """The terms of a policy at one moment, in words: computed once and shared by all verdicts."""

    as_of: datetime
    window: str
    compressing: str
    retiring: str
    first_step: str
    retention: dict[str, str]
    segment: str | None = None

    @classmethod
    def of(
        cls,
        as_of: datetime,
        window_days: int,
        compress: tuple[int | None, int],
        retire: tuple[int | None, int],
        retention_days: Mapping[str, int | None],
        segment: str | None = None,
    ) -> Self:
        """Put limits into words. `compress` and `retire` are (below this many views, after this many days).

        `segment` names the segment that they are for.
        """
        first = min((days for views, days in (compress, retire) if views), default=0)
        return cls(
            as_of,
            many(window_days, "day"),
            f"compressed {_below_after(*compress)}",
            f"retired {_below_after(*retire)}",
            many(first, "day"),
            {
                tier: f"{tier} users' videos are kept for {many(days, 'day') if days else 'ever'}"
                for tier, days in retention_days.items()
            },
            segment,
        )

    @property
    def tiers(self) -> str:
        """List the names of all tiers."""
        return ", ".join(self.retention)

    def sentence(self, rule: str, video: Video) -> str:
        """Say why `rule` decided about `video`. A rule that has no sentence says its name."""
        sentence = SENTENCES.get(rule, rule).format(
            terms=self,
            video=video,
            age=_age(self.as_of - (video.created_at or self.as_of)),
            views="unknown views" if video.views is None else many(video.views, "view"),
            retention=self.retention.get(video.tier or ""),
        )
        return f"segment {self.segment}: {sentence}" if self.segment else sentence


def many(count: int, noun: str) -> str:
    """Give "1 day" or "1,000 days"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def dollars(microusd: Decimal | float) -> str:
    """Format micro-dollars as dollars; a small amount keeps two significant digits."""
    amount = Decimal(microusd) / 10**6
    sign, amount = "-" if amount < 0 else "", abs(amount)
    if amount == 0 or amount >= Decimal("0.01"):
        return f"{sign}${amount:,.2f}"
    return f"{sign}${amount:.{min(1 - amount.adjusted(), _DOLLAR_DIGITS)}f}"


def usd(nanousd: int) -> str:
    """Format nano-dollars as dollars, as `dollars` does micro-dollars."""
    return dollars(Decimal(nanousd) / 1000)


def searched(searches: SearchTotals) -> str:
    """Say in one sentence what compressing cost, in CPU and dollars, and what it saved."""
    return (
        f"{searches.accepted:,} of {many(searches.searches, 'attempt')} shrank a file: "
        f"{size(searches.source_bytes - searches.kept_bytes)} less in {searches.cpu_seconds:,.0f} CPU s, "
        f"{dollars(searches.gain_microusd)} saved while they live, {dollars(searches.cost_microusd)} spent, "
        f"{dollars(searches.net_microusd)} net."
    )


def size(size_bytes: int) -> str:
    """Format bytes in a decimal unit with one decimal: 999,950 bytes are 1.0 MB."""
    if abs(size_bytes) < _STEP:
        return f"{size_bytes} B"
    amount = Decimal(size_bytes) / _STEP
    for unit in _UNITS[:-1]:
        if abs(round(amount, 1)) < _STEP:
            return f"{amount:.1f} {unit}"
        amount /= _STEP
    return f"{amount:,.1f} {_UNITS[-1]}"


def _below_after(views: int | None, days: int) -> str:
    return f"below {many(views, 'view')} after {many(days, 'day')}" if views else "never as cold"


def _age(age: timedelta) -> str:
    """Format an age as days and hours: a daily run meets most videos within hours of their limit."""
    hours = age.seconds // 3600
    return f"{many(age.days, 'day')}{' and ' + many(hours, 'hour') if hours else ''} old"


def span(time: timedelta) -> str:
    """Format a duration in days or hours where there are at least two: 2 hours, 90 minutes, 1 minute."""
    for name, unit in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
        if time >= 2 * unit or time == unit:
            return many(round(time / unit), name)
    return many(max(0, round(time / timedelta(minutes=1))), "minute")
