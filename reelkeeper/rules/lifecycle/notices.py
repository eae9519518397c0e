"""Give notice before retirement: a video with promised notice is retired only once the service had it in time. Pure.

`with_notices` is applied to the verdicts. For a video whose user's tier has `notice_days`:

    notice_lapsed         WITHDRAW  has notice, but is no longer due within those days, or its user has another tier
    past_retention_soon   NOTIFY    due within those days, and without notice
    cold_retire_soon      NOTIFY    the same, for a cold video
    notice_no_endpoint    due, but no webhook endpoint subscribes to notices
    notice_not_delivered  due, but the notice is not delivered yet
    notice_running        due, and the notice was given, but its days are not over

Unknown figures do not end a notice: otherwise a night without figures would send all notices again.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.model import Action, Notice, Verdict, Video
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.rules.alerts.webhooks import NOT_DELIVERED, scope
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle import lifecycle
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy

NO_ENDPOINT: Final = "notice_no_endpoint"
RUNNING: Final = "notice_running"
LAPSED: Final = "notice_lapsed"
LATE_AFTER: Final = timedelta(days=1)  # after which an undelivered notice is reported
_SOON: Final = "_soon"
_UNKNOWN: Final = frozenset({"unknown_age", "unknown_tier", "unknown_views", "future_created"})
_RELEASE: Final = "reelkeeper webhooks release"


class Given(NamedTuple):
    """The notices in force, and whether any endpoint subscribes to new ones."""

    standing: Mapping[str, Notice]
    has_endpoint: bool


class Expiry(NamedTuple):
    """The earliest retirement of a video, and the promised days of notice."""

    at: datetime
    days: int


def with_notices(
    judged: Iterable[Verdict], policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, given: Given
) -> Iterable[Verdict]:
    """Make retirements wait for their notice, and decide which notices are given or lapse.

    If no tier is promised notice and none is in force, the verdicts are unchanged.
    """
    if not given.standing and not any(tiers.notice_days().values()):
        return judged
    return _with_notices(judged, policy, tiers, as_of, given)


def _with_notices(
    judged: Iterable[Verdict], policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, given: Given
) -> Iterator[Verdict]:
    promised = {name: days for name, days in tiers.notice_days().items() if days}
    ahead = {
        tier: lifecycle.judging(policy, tiers, as_of + timedelta(days=days), "", ()) for tier, days in promised.items()
    }
    for verdict in judged:
        video = verdict.video
        notice = given.standing.get(video.id)
        if video.tier not in promised:
            yield verdict if notice is None or verdict.action is Action.RETIRE else _lapsed(video)
            continue
        due = verdict
        if verdict.action is not Action.RETIRE and verdict.rule != "future_created":
            soon = ahead[video.tier](video)
            due = Verdict(video, soon.action, soon.rule, verdict.figures[:1])  # explained by today's figures
        yield _noticed(verdict, due, notice, promised[video.tier], as_of, has_endpoint=given.has_endpoint)


def _noticed(  # noqa: PLR0911  one return for each line of the table above
    verdict: Verdict, due: Verdict, notice: Notice | None, days: int, as_of: datetime, *, has_endpoint: bool
) -> Verdict:
    video, is_due = verdict.video, verdict.action is Action.RETIRE
    if due.action is not Action.RETIRE:
        return verdict if notice is None or due.rule in _UNKNOWN else _lapsed(video)
    notice_over = as_of + timedelta(days=days)
    if notice is None and has_endpoint:
        return Verdict(video, Action.NOTIFY, due.rule + _SOON, (due, Expiry(notice_over, days)))
    if notice is not None and (notice.tier != video.tier or notice.is_lost):
        return _lapsed(video)
    if not is_due:
        return verdict
    if notice is None:
        return Verdict(video, Action.KEEP, NO_ENDPOINT, (due, Expiry(notice_over, days)))
    if notice.told_at is None:
        return Verdict(video, Action.KEEP, NOT_DELIVERED, (due, Expiry(notice_over, days)))
    # guard rules.notice: a plan retires a video before its days of notice are over
    if (goes_at := goes_after(notice.expires_at, notice.told_at, days)) > as_of:
        return Verdict(video, Action.KEEP, RUNNING, (due, Expiry(goes_at, days)))
    return verdict


def goes_after(expires_at: datetime, told_at: datetime, days: int) -> datetime:
    """Return when a video may be retired whose notice states `expires_at` and was given at `told_at`."""
    return max(expires_at, told_at + timedelta(days=days))


def _lapsed(video: Video) -> Verdict:
    return Verdict(video, Action.WITHDRAW, LAPSED)


def reason(verdict: Verdict) -> str:
    """Explain in one sentence why a video waits, gets notice or loses it; otherwise as `lifecycle.reason` does."""
    match verdict.rule, verdict.figures:
        case str(rule), (Verdict() as due, Expiry() as expiry):
            why, when = lifecycle.reason(due), f"{expiry.at:%Y-%m-%d}"
            return {
                NO_ENDPOINT: f"no endpoint hears of video.expiring, so it stays: {why}",
                NOT_DELIVERED: f"the notice is under way to its endpoints, and from then on {many(expiry.days, 'day')} "
                f"run: {why}",
                RUNNING: f"told of, and not retired before {when}: {why}",
            }.get(rule, f"notice of {many(expiry.days, 'day')}, retired on {when} at the earliest: {why}")
        case (str(rule), _) if rule == LAPSED:
            return "its notice lapses: no longer due, of another tier, or its message is gone"
    return lifecycle.reason(verdict)


def no_endpoint(flow: str, videos: int) -> Finding:
    """Make the finding that nothing is retired because no endpoint subscribes to notices."""
    return Finding(
        rule=NO_ENDPOINT,
        scope=flow,
        severity=Severity.WARNING,
        title="Videos due for retirement are kept: no endpoint receives video.expiring",
        text=f"{many(videos, 'video')} would be retired by {flow}. Their users were promised notice, and there is no "
        "endpoint to send it to.",
        suggestion="Add one: reelkeeper webhooks add URL --event video.expiring; or set the notice_days of tiers to 0",
    )


def late(endpoint_id: str, notices: int, since: datetime) -> Finding:
    """Make the finding that an endpoint has not accepted notices for over a day, so their videos stay."""
    return Finding(
        rule=NOT_DELIVERED,
        scope=scope(endpoint_id),
        severity=Severity.WARNING,
        title=f"The webhook {endpoint_id} has not accepted {many(notices, 'notice')}: their videos are kept",
        text=f"The oldest was given on {since:%Y-%m-%d %H:%M} UTC. No video is retired before its notice is delivered.",
        suggestion=f"Fix the endpoint, then run: reelkeeper webhooks enable {endpoint_id}. If users were informed "
        f"in another way: {_RELEASE} {endpoint_id} --reason WHY",
    )
