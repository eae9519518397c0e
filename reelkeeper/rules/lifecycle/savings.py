"""Suggest savings on the bill, in dollars a month, the largest first. Nothing acts on suggestions.

Each is priced beyond the free allowance, before rounding: the present cost of a month less the new one.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from reelkeeper.model import Action, Grace, LessByDay, SearchTotals, Verdict, Video
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import MICRO, NANO, Freed, Saved
from reelkeeper.rules.billing.cheaper import Cheaper, Repeat, Spent
from reelkeeper.rules.billing.pricing import (
    InfrequentAccessUsage,
    Usage,
    bill,
    saving_this_month,
    storage_microusd_per_month,
)
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, STANDARD
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import dollars, many
from reelkeeper.rules.lifecycle.lifecycle import Appraise, LifecyclePolicy, judging
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS
from reelkeeper.rules.lifecycle.worth import RELATIVE_BYTES, USD_PER_BYTE_DAY, Payback, Stay, Worth

SMALLER: Final = "smaller files"
GONE: Final = "expired and cold videos"
LEFTOVERS: Final = "leftovers"
KINDS: Final = (SMALLER, GONE, LEFTOVERS)
_FRAMES: Final = {"to 480p": 854 * 480, "to 720p": 1280 * 720, "to 1080p": 1920 * 1088}
_KIND_OF: Final = {"replaced": SMALLER, "orphan": LEFTOVERS}  # the other rules retire videos
RULE: Final = "saving"
_LEAST_USD: Final = Decimal(1)  # a month; a smaller saving is not worth reading about
_EXPECTED_SIZE_PERCENT: Final = 50  # of a compressed video, of its source: a promise that is sooner kept than broken
_COLD_MONTHS: Final = 3  # that videos are expected to stay in the cheaper storage class
_MOST_USERS: Final = 3  # with idle videos that are named
_IDLE_DAYS: Final = 30  # a video this old, and not viewed for this long, is idle
_HALF: Final = 2
_ONE_KEY: Final = "One Idempotency-Key for all tries of a request, such as the id of the user's click."
_SHARE: Final = "`shared: true` in requests whose videos may be given to any user."
_KEEP: Final = "pruning.budget_bytes of the policies, or a longer retention of the tiers."


@dataclass(frozen=True, slots=True)
class Idle:
    """Unused stored bytes. Videos of unknown age or views, and held ones, are not counted."""

    backlog_bytes: int = 0  # cold and not compressed yet
    cold_bytes: int = 0  # idle, with more than a month to live: suitable for a cheaper class
    cold_objects: int = 0
    late_bytes: Mapping[str, int] = field(default_factory=dict)  # by tier: past half of its retention
    late_idle_bytes: Mapping[str, int] = field(default_factory=dict)  # of those, idle
    by_user: Mapping[str, int] = field(default_factory=dict)  # idle
    backlog_net_microusd: int = 0  # net saving of compressing the backlog
    unpaid_bytes: int = 0  # cold, but compressing would cost more than it saves


class Saving(NamedTuple):
    """A verdict's expected saving in micro-dollars: per month, and over the rest of the video's life less costs."""

    month_microusd: int
    net_microusd: int | None  # None if it is unknown how long the video would have stayed


def of_verdict(verdict: Verdict, policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, payback: Payback) -> Saving:
    """Compute the expected saving of a verdict: the whole video, or the bytes that compressing saves.

    For a video past its retention, it is unknown how long it would have stayed.
    """
    video = verdict.video
    if verdict.action in {Action.NOTIFY, Action.WITHDRAW}:
        return Saving(0, 0)
    for figure in verdict.figures:
        if isinstance(figure, Worth):
            return Saving(storage_microusd_per_month(figure.saved_bytes), figure.net_microusd)
    a_month = storage_microusd_per_month(video.size_bytes)
    if verdict.rule == "past_retention":
        return Saving(a_month, None)
    days = payback.days(Stay(policy.tiers_for(video, tiers).remaining_days(video.tier, video.created_at, as_of)))
    return Saving(a_month, round(video.size_bytes * days * USD_PER_BYTE_DAY * MICRO))


class SmallerBy(NamedTuple):
    """The costs and savings of compression for the clips of one model and frame size."""

    model: str | None  # None: not known
    frame: str
    totals: SearchTotals
    saved_microusd: int  # so far


def smaller_by_model(
    totals: Iterable[tuple[str | None, int, SearchTotals]], less: Iterable[LessByDay], *, grace: Grace, until: date
) -> list[SmallerBy]:
    """Sum costs and savings by model and frame size, the most CPU first.

    A saved byte counts from the end of its original's grace until `until`, or the end of its video, at list price.
    """
    saved: defaultdict[tuple[str | None, str], float] = defaultdict(float)
    for item in less:
        days = ((min(item.went, until) if item.went else until) - item.day).days
        days -= grace.days if item.is_ours else grace.service_days
        saved[item.model, frame_class(item.pixels)] += item.size_bytes * max(days, 0) * USD_PER_BYTE_DAY * MICRO
    sums: defaultdict[tuple[str | None, str], SearchTotals] = defaultdict(SearchTotals)
    for model, pixels, some in totals:
        key = model, frame_class(pixels)
        sums[key] = SearchTotals(*map(sum, zip(astuple(sums[key]), astuple(some), strict=True)))
    found = [SmallerBy(*key, total, round(saved[key])) for key, total in sums.items()]
    return sorted(found, key=lambda item: (-item.totals.cpu_seconds, item.model or "", item.frame))


def frame_class(pixels: int) -> str:
    """Return the name of a frame size by its pixels, such as 720p."""
    return next((name for name, most in _FRAMES.items() if pixels <= most), "above 1080p")


def survey(
    videos: Iterable[Video], policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, worth: Appraise | None = None
) -> Idle:
    """Sum the unused bytes of live videos. `worth` values an encode; without it, every encode pays."""
    backlog = net = unpaid = cold = objects = 0
    late, late_idle, by_user = Counter[str](), Counter[str](), Counter[str]()
    judge = judging(policy, tiers, as_of, "", EFFICIENT_CODECS, worth)
    for video in videos:
        tier = policy.tiers_for(video, tiers).get(video.tier)
        if video.held or video.created_at is None or video.tier is None or tier is None:
            continue
        age, kept = as_of - video.created_at, tier.retention_days
        if is_late := kept is not None and age > timedelta(days=kept) / _HALF:
            late[video.tier] += video.size_bytes
        if video.views is None:
            continue
        if not video.refused_recipe:
            _, action, rule, (*_, expected) = judge(video)
            unpaid += video.size_bytes * (rule == "does_not_pay")
            if action is Action.COMPRESS:
                backlog += video.size_bytes
                net += expected.net_microusd if isinstance(expected, Worth) else 0
        if video.views == 0 and age > timedelta(days=_IDLE_DAYS):
            by_user[video.user_id] += video.size_bytes
            late_idle[video.tier] += video.size_bytes * is_late
            if kept is None or timedelta(days=kept) - age > timedelta(days=DAYS_A_MONTH):
                cold, objects = cold + video.size_bytes, objects + 1
    return Idle(backlog, cold, objects, dict(late), dict(late_idle), dict(by_user), net, unpaid)


def findings(
    idle: Idle,
    usage: Usage,
    *,
    repeated: Mapping[Repeat, Spent] | None = None,
    ways: Iterable[Cheaper] = (),
    codec: str = "h264",
) -> list[Finding]:
    """Suggest savings of at least a dollar a month, the largest first.

    `codec` is that of results. `usage` is the month's present usage; `repeated` are the month's jobs that made a video
    again; `ways` are cheaper ways to make clips.
    """

    def off(size_bytes: int) -> Decimal:
        return saving_this_month(usage, size_bytes, DAYS_A_MONTH).exact_usd

    shrunk, dear = (
        size_bytes * (100 - _EXPECTED_SIZE_PERCENT) // 100 for size_bytes in (idle.backlog_bytes, idle.unpaid_bytes)
    )
    left = f" Over the rest of their lives, {dollars(idle.backlog_net_microusd)} net of CPU and requests."
    smaller = 1 - 1 / RELATIVE_BYTES[codec]
    found = [
        _finding(
            "backlog",
            off(shrunk),
            f"Compress {_size(idle.backlog_bytes)} of seldom viewed videos",
            f"They are no AV1, VP9 or HEVC yet, and would be about {_EXPECTED_SIZE_PERCENT} % of their size."
            + left * bool(idle.backlog_net_microusd),
            "reelkeeper run tier_storage --apply, or a higher lifecycle.compress_limit or compress_usd_per_day.",
        ),
        _finding(
            "cpu",
            off(dear),
            f"Compress {_size(idle.unpaid_bytes)} more where CPU costs nothing",
            "At the price of CPU that is set, their encodes cost more than they save. This is before CPU.",
            "recipe.payback.cpu_usd_per_hour, if your machines idle anyway.",
        ),
        _finding(
            "codec",
            off(round((idle.backlog_bytes - shrunk) * smaller)),
            f"Compress {_size(idle.backlog_bytes)} to AV1",
            f"It keeps about {1 - smaller:.0%} of the bytes of {codec}, for a third more CPU. Apple's devices play it "
            "from 2023 on.",
            "recipe.codec: av1, once the players of your users take it.",
        ),
        _finding(
            "class",
            _class_saving(idle, usage),
            f"Move {_size(idle.cold_bytes)} of unwatched videos to Infrequent Access",
            f"{many(idle.cold_objects, 'video')} without a view in {_IDLE_DAYS} days, if they stay there for "
            f"{many(_COLD_MONTHS, 'month')} unread; moving them, and rounding up, is counted in.",
            "A lifecycle rule of R2's, once and for all of them: each month with a move costs a whole million of them.",
        ),
        _finding(
            "idle",
            off(sum(idle.by_user.values())),
            f"Retire {_size(sum(idle.by_user.values()))} that nobody watches",
            f"No view in {_IDLE_DAYS} days, and older than that.",
            "lifecycle.retire_below_views: 1 in the policies; reelkeeper plan tier_storage shows what it would retire.",
        ),
    ]
    found += [
        _finding(
            f"retention:{tier}",
            off(size_bytes),
            f"Keep videos of {tier} users half as long",
            f"{_size(size_bytes)} are past half of their retention; {_size(idle.late_idle_bytes.get(tier, 0))} of that "
            f"had no view in {_IDLE_DAYS} days.",
            f"tiers.{tier}.retention_days of the policies. Users would have to be told before.",
        )
        for tier, size_bytes in idle.late_bytes.items()
    ]
    found += [_again(cause, spent) for cause, spent in (repeated or {}).items()]
    found += [_way(way) for way in ways]
    users = sorted(idle.by_user.items(), key=lambda item: (-item[1], item[0]))[:_MOST_USERS]
    found += [
        _finding(
            f"user:{user_id}",
            off(size_bytes),
            f"Ask user {user_id} about {_size(size_bytes)} that nobody watches",
            f"No view in {_IDLE_DAYS} days, and older than that.",
            f"To see them: reelkeeper videos --user {shlex.quote(user_id)}",
        )
        for user_id, size_bytes in users
    ]
    least = max(1, int(_LEAST_USD * MICRO))
    worth = [finding for finding in found if (finding.impact_microusd or 0) >= least]
    return sorted(worth, key=lambda finding: (-(finding.impact_microusd or 0), finding.scope))


def _again(cause: Repeat, spent: Spent) -> Finding:
    """Suggest not to make what was made before."""
    jobs = many(spent.jobs, "job")
    match cause:
        case Repeat.RETRIED:
            title, suggestion = f"Send {jobs} under the key of the first try", _ONE_KEY
            text = "The same user asked for the same within an hour, and it was made once more."
        case Repeat.NOT_SHARED:
            title, suggestion = f"Share the videos of {jobs} between users", _SHARE
            text = "Another user had the same made before, but may not be given that video."
        case _:
            title, suggestion = f"Answer {jobs} a month from the cache", _KEEP
            text = "They made what had been made before, and was no longer in the cache."
    return _finding(cause, Decimal(spent.microusd) / MICRO, title, text, suggestion)


def _way(way: Cheaper) -> Finding:
    """Suggest another provider for the clips of a model, or making them without sound."""
    clips = many(way.jobs, "clip")
    if way.provider is None:
        title, scope = f"Make {clips} of {way.model} without sound", "without sound"
        text = "Their requests said nothing of sound, and its vendor takes more for a clip that has it."
        suggestion = "Ask for `audio: false` where nobody listens, or sell the model without sound."
    else:
        title, scope = f"Have {clips} of {way.model} made by {way.provider}", way.provider
        text = "That is what it would have taken for the clips of the last 30 days that it can make."
        suggestion = "Name it first in book.models, where its videos are as good: reelkeeper policy show."
    return _finding(f"model:{way.model}:{scope}", way.usd, title, text, suggestion)


def _class_saving(idle: Idle, usage: Usage) -> Decimal:
    """Compute the monthly saving of the cheaper class as billed, with the move spread over the next months."""
    moved = min(Decimal(idle.cold_bytes) / GB, usage.standard.gb_month)
    before, infrequent = bill(usage).billed_usd, usage.infrequent_access
    less = usage.standard.model_copy(update={"gb_month": usage.standard.gb_month - moved})

    def after(moves: int) -> Decimal:
        more = {"gb_month": infrequent.gb_month + moved, "class_a": infrequent.class_a + moves}
        changed: InfrequentAccessUsage = infrequent.model_copy(update=more)
        return bill(Usage(standard=less, infrequent_access=changed)).billed_usd

    moving = after(idle.cold_objects) - after(0)
    return before - after(0) - moving / _COLD_MONTHS


def _finding(scope: str, usd: Decimal, title: str, text: str, suggestion: str) -> Finding:
    microusd = int(usd * MICRO)
    shown = dollars(microusd)
    return Finding(
        RULE,
        scope,
        Severity.NOTICE,
        f"{title}: {shown} less a month",
        text,
        suggestion,
        microusd,
        (("Saves a month", shown),),
    )


def subject(title: str) -> str:
    """Return the title of a finding without its dollars."""
    return title.rpartition(":")[0]


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GB:,.1f} GB"


def per_day(freed: Iterable[Freed], last: date) -> Iterator[Saved]:
    """Return each day's saving up to `last`, by kind: from the day after a purge, as a day is billed at its peak."""
    by_day: dict[date, Counter[str]] = {}
    for freed_bytes in freed:
        by_day.setdefault(freed_bytes.day, Counter())[kind_of(freed_bytes.rule)] += freed_bytes.size_bytes
    if not by_day:
        return
    so_far: Counter[str] = Counter()
    day = min(by_day)
    while day <= last:
        for kind in KINDS:
            if so_far[kind]:
                yield Saved(day, kind, a_day(so_far[kind]))
        so_far.update(by_day.get(day, {}))
        day += timedelta(days=1)


def kind_of(rule: str) -> str:
    """Return the name of the kind of saving of a purge's rule."""
    return _KIND_OF.get(rule, GONE)


def a_day(size_bytes: int) -> int:
    """Return the cost of storing `size_bytes` for one day, in nano-dollars at list price."""
    return round(size_bytes * STANDARD.storage_usd_per_gb_month * NANO / (GB * DAYS_A_MONTH))
