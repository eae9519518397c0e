"""Write the sentences that explain lifecycle verdicts, and format amounts. The rules are in `lifecycle`."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, Self

from reelkeeper.errors import ReelkeeperError
from reelkeeper.model import Claimed, SearchTotals, Video

_DOLLAR_DIGITS: Final = 6  # sums are in micro-dollars
LEAST: Final = "under $0.000001"
_UNITS: Final = ("kB", "MB", "GB", "TB")  # powers of 1000, as R2 bills them
_STEP: Final = 1000
_DAYS_WITH_HOURS: Final = 3
UNKNOWN_KEEPS: Final = (
    "A video is kept while its tier or age is unknown, and not judged by its views while those are. They come by "
    "reelkeeper videos import, with --users, --videos, and --views --complete-days"
)
NOT_TRIED: Final = (
    "but it is at the service's key, in a bucket that has not passed the contract test (reelkeeper doctor --contract)"
)
TRIAL: Final = "A trial: nothing is changed."
CONTRACT_ASSUMED: Final = (
    "Plans have the videos at the service's own keys as if this bucket had passed the contract test, which they need "
    "once you go live: reelkeeper doctor --contract"
)
DATED_BY_KEY: Final = (
    "where only the key tells when a video was made, it counts as made at the end of that day, month or year, or when "
    "it was stored, if that was earlier"
)
LEFT_BY_COUNT: Final = (
    "Left to the next run: one run deletes at most limits.max_objects videos, those retired longest ago first."
)
UNTIL_LIVE: Final = "a trial: nothing is changed until it goes live"
TRY_ANOTHER: Final = "reelkeeper simulate lifecycle --policy FILE"  # shows the effect of another policy
EXPECTED_SAVING: Final = (
    "Savings are estimates until the work is done. The net of compressing covers the days until the policy is expected "
    "to delete the video, minus CPU, requests, and the original's grace."
)

SENTENCES: Final = {
    "held": "held: kept until the hold is released or expires",
    "unknown_age": "creation time unknown: kept until the catalogue records it",
    "future_created": "created {video.created_at}, which is after {terms.as_of}: kept, because a clock is wrong",
    "unknown_tier": "{tier}: kept until the tier is known",
    "past_retention": "{age}: {retention}",
    "kept_on_request": "{age}, and kept on request until {video.kept_until:%Y-%m-%d %H:%M} UTC",
    "within_retention": "{age}: {retention}",
    "cold_rules_off": "{age}: {retention}, and no rule for cold videos is switched on",
    "too_young": "{age}: {retention}, and its views do not count until it is older than {terms.first_step}",
    "unknown_views": "some views of the last {terms.window} are not recorded, so none count until all are: {retention}",
    "cold_retire": "{views} in {terms.window}, {age}: {terms.retiring}",
    "still_watched": "{views} in {terms.window}, {age}: {terms.compressing}, {terms.retiring}",
    "compressed_before": "{views} in {terms.window}, {age}, but already compressed",
    "already_efficient": "{views} in {terms.window}, {age}, but already encoded as {video.codec}",
    "refused_before": "{views} in {terms.window}, {age}, but already refused with this recipe",
    "too_large_in_place": "{views} in {terms.window}, {age}, but larger than 5 GiB, the limit for replacing in place",
    "not_in_place": "{views} in {terms.window}, {age}, but not H.264 in MP4, the only format that is replaced in place",
    "locked_in_place": "{views} in {terms.window}, {age}, but a bucket lock protects its key: tried again next month",
    "does_not_pay": "{views} in {terms.window}, {age}, but an encode would cost more than it saves",
    "tried_to_learn": "{views} in {terms.window}, {age}: tried, to learn whether clips here pay",
    "cold_compress": "{views} in {terms.window}, {age}: {terms.compressing}",
}


class Terms(NamedTuple):
    """The terms of a policy at one time, as text, computed once and shared by all verdicts."""

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
        """Format limits as text. `compress` and `retire` are (below this many views, after this many days).

        `segment` is the name of the segment that they apply to.
        """
        first = min((days for views, days in (compress, retire) if views), default=0)
        return cls(
            as_of,
            many(window_days, "day"),
            _below_after("compressed", *compress),
            _below_after("retired", *retire),
            many(first, "day"),
            {
                tier: f"{tier} users' videos are kept for {many(days, 'day') if days else 'ever'}"
                for tier, days in retention_days.items()
            },
            segment,
        )

    @property
    def tiers(self) -> str:
        """The names of all tiers, as text."""
        return ", ".join(self.retention)

    def sentence(self, rule: str, video: Video) -> str:
        """Explain why `rule` decided about `video`; for a rule without a sentence, return its name."""
        sentence = SENTENCES.get(rule, rule).format(
            terms=self,
            video=video,
            age=_age(self.as_of - (video.created_at or self.as_of)),
            tier=f"tier {video.tier!r} is not one of {self.tiers}" if video.tier else "its user's tier is not recorded",
            views="unknown views" if video.views is None else many(video.views, "view"),
            retention=self.retention.get(video.tier or ""),
        )
        return f"segment {self.segment}: {sentence}" if self.segment else sentence


def sentence(text: str) -> str:
    """Write a text as a sentence, with a capital and a full stop.

    >>> sentence("nothing is known")
    'Nothing is known.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def contract_gate(failed: Collection[str]) -> str:
    """Say why nothing is changed at the service's keys: this bucket has `failed` checks, or was not tried."""
    nothing = "nothing is changed at the service's own keys"
    if failed:
        which = ", ".join(sorted(failed))
        return f"{nothing}, as this bucket has failed {which} of the contract test: see docs/r2.md, Test the bucket"
    return f"{nothing} until this bucket has passed the contract test: reelkeeper doctor --contract"


def left_by_share(max_user_percent: float, always_allowed: int) -> str:
    """Say which limits leave a user's videos to the next run."""
    return (
        f"Left to the next run: one run retires at most limits.max_user_percent ({max_user_percent:g} %) of a user's "
        f"videos, or limits.always_allowed ({always_allowed:,}) if that is more, the oldest first."
    )


def in_words(rule: str) -> str:
    """Name a rule that keeps videos, as a list of counts does."""
    return "contract not passed" if rule == "contract_not_tried" else rule.replace("_", " ")


def problem_of(error: Exception) -> str:
    """Describe an error: the message of one of ours, else only the type, as other messages may contain secrets."""
    return str(error) if isinstance(error, ReelkeeperError) else f"unexpected {type(error).__name__}"


def many(count: int, noun: str) -> str:
    """Format a count with its noun: "1 day", "1,000 days", "2 searches"."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def dollars(microusd: Decimal | float) -> str:
    """Format micro-dollars as dollars; a small amount keeps two significant digits, or is under a micro-dollar."""
    amount = Decimal(microusd) / 10**6
    sign, amount = "-" if amount < 0 else "", abs(amount)
    if amount == 0 or amount >= Decimal("0.01"):
        return f"{sign}${amount:,.2f}"
    if not round(amount, _DOLLAR_DIGITS):
        return "over -$0.000001" if sign else LEAST
    return f"{sign}${amount:.{min(1 - amount.adjusted(), _DOLLAR_DIGITS)}f}"


def exact(microusd: int) -> str:
    """Format micro-dollars as dollars without rounding: amounts that are compared may differ by one."""
    return f"${Decimal(microusd) / 10**6:,.2f}" if microusd % 10_000 == 0 else f"${Decimal(microusd) / 10**6:,f}"


def usd(nanousd: int) -> str:
    """Format nano-dollars as dollars, as `dollars` does micro-dollars."""
    return dollars(Decimal(nanousd) / 1000)


def searched(searches: SearchTotals) -> str:
    """Summarise the CRF searches in one sentence: results, CPU, savings and cost."""
    return (
        f"{searches.accepted:,} of {many(searches.searches, 'attempt')} made a file smaller: "
        f"{size(searches.source_bytes - searches.kept_bytes)} saved in {searches.cpu_seconds:,.0f} CPU s, "
        f"{dollars(searches.gain_microusd)} saved over the videos' lives, {dollars(searches.cost_microusd)} spent, "
        f"{dollars(searches.net_microusd)} net."
    )


def claimed(claim: Claimed) -> str:
    """Describe the objects that a run has claimed, and the time from which a purge can take them over."""
    return (
        f"{many(claim.objects, 'object')}, {size(claim.size_bytes)}, claimed by run {claim.run_id}, which deletes them "
        f"now or was killed: in that case, a purge from {claim.until:%Y-%m-%d %H:%M:%S} UTC on continues with them."
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


def _below_after(action: str, views: int | None, days: int) -> str:
    return f"{action} below {many(views, 'view')} after {many(days, 'day')}" if views else f"never {action} as cold"


def _age(age: timedelta) -> str:
    """Format an age as whole days, of the first few with hours: later, they tell nobody anything."""
    hours = age.seconds // 3600 if age.days < _DAYS_WITH_HOURS else 0
    return f"{many(age.days, 'day')}{' and ' + many(hours, 'hour') if hours else ''} old"


def span(time: timedelta) -> str:
    """Format a duration in the largest unit that suits it: 1 day, 30 hours, 90 minutes."""
    for name, unit in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
        if time >= 2 * unit or time == unit:
            return many(round(time / unit), name)
    return many(max(0, round(time / timedelta(minutes=1))), "minute")
