"""Queue webhook events for the service's servers, in the same transaction as the change that they report.

So a crash loses neither or both, and no network call delays the change.
`operations/alerts/webhooks` delivers.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from reelkeeper.errors import InputRefused
from reelkeeper.model.alerts import EventType, Finding, Happened
from reelkeeper.model.money import MICRO
from reelkeeper.rules.alerts import webhooks as rules
from reelkeeper.rules.spend import budget
from reelkeeper.store import Session
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.billing import ledger
from reelkeeper.store.core.audit import Event, append


def record(session: Session, events: Sequence[Event]) -> None:
    """Write changes of videos to the audit record, and queue their events. Last in a transaction, like `append`."""
    named = {event.video_id for event in events if event.video_id is not None}
    if named and webhooks.has_endpoint(session):
        standing = webhooks.changed_videos(session, named)
        happened = [_of_video(event, standing[event.video_id]) for event in events if event.video_id in standing]
        webhooks.put(session, [each for each in happened if each])
    append(session, events)


def jobs_ended(session: Session, job_ids: Sequence[str]) -> None:
    """Queue events for jobs that have ended."""
    if not webhooks.has_endpoint(session):
        return
    ended = [job._asdict() for job in webhooks.ended_jobs(session, job_ids)]
    own = {job["job_id"]: url for job in ended if (url := job.pop("webhook_url"))}
    webhooks.put(session, [Happened(EventType.JOB_ENDED, job["video_id"] or job["job_id"], job) for job in ended])
    for job in ended:
        url = own.get(job["job_id"])
        if url and (endpoint_id := _endpoint_for(session, url)):
            webhooks.put_to(session, endpoint_id, url, Happened(EventType.JOB_ENDED, f"job/{job['job_id']}", job))


def require_endpoint(session: Session, url: str | None) -> None:
    """Raise InputRefused unless an endpoint, whose secret then signs, is at the origin of a job's own URL, if any."""
    if url is None:
        return
    # guard webhooks.own_origin: who may request videos has signed events sent to any server
    if _endpoint_for(session, url) is None:
        raise InputRefused(
            f"no webhook has the scheme, host and port of {url[:200]!r}, so nothing would sign what is sent there; "
            "nothing was admitted. Add one: reelkeeper webhooks add URL"
        )


def _endpoint_for(session: Session, url: str) -> str | None:
    """Find the oldest endpoint at the origin of a URL."""
    at = _origin(url)
    return next((name for name, known in webhooks.urls(session).items() if at and _origin(known) == at), None)


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return None
    has_user = parts.username is not None or parts.password is not None
    return (parts.scheme, parts.hostname, port) if parts.hostname and port and not has_user else None


def expiring(session: Session, found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Queue events for videos that will be retired, with the data `found` by video; return video, endpoint, message."""
    happened = [
        Happened(EventType.VIDEO_EXPIRING, video_id, {**_data(video), **found[video_id]})
        for video_id, video in webhooks.changed_videos(session, found).items()
    ]
    return webhooks.put_each_apart(session, happened)


def budgets_crossed(session: Session, opened: Iterable[Finding]) -> None:
    """Queue an event for each new alert about a budget that has crossed a level."""
    happened = [
        Happened(
            EventType.BUDGET_CROSSED,
            f"budget:{finding.scope}",
            {
                "scope": finding.scope,
                "period": finding.period,
                "level": finding.level,
                "title": finding.title,
                "text": finding.text,
            },
        )
        for finding in opened
        if finding.rule == budget.RULE
    ]
    if happened and webhooks.has_endpoint(session):
        webhooks.put(session, happened)


def credits_taken(session: Session, user_id: str, taken_microusd: int, low_usd: Decimal | None) -> None:
    """Queue an event when taking these credits brought a user below `low_usd`: once, until they are above it again."""
    if low_usd is None:
        return
    left, low = ledger.balance(session, user_id).available_microusd, int(low_usd * MICRO)
    if left < low <= left + taken_microusd and webhooks.has_endpoint(session):
        data = {"user_id": user_id, "available_microusd": left, "low_microusd": low}
        webhooks.put(session, [Happened(EventType.CREDITS_LOW, f"user:{user_id}", data)])


def _of_video(event: Event, video: webhooks.ChangedVideo) -> Happened | None:
    known = rules.of_audit(event.event, event.detail, video.state, is_present=video.blob_id == event.blob_id)
    if known is None:
        return None
    data = _data(video)
    if event.event == "swap":
        data["before_bytes"] = event.detail["before_bytes"]
    return Happened(known, video.video_id, data)


def _data(video: webhooks.ChangedVideo) -> dict[str, Any]:
    return {
        **{name: value for name, value in video._asdict().items() if name not in {"blob_id", "purge_after"}},
        "purge_after": video.purge_after.isoformat() if video.purge_after else None,
    }
