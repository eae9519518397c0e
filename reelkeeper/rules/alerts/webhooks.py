"""Decide for webhooks which event a change is, when a message is retried, and when an endpoint is disabled."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from reelkeeper.model.alerts import EventType, Finding, Severity

DISABLED: Final = "webhook_disabled"
GIVEN_UP: Final = "webhook_given_up"
NOT_DELIVERED: Final = "notice_not_delivered"  # a notice of retirement, so the video stays

DEAD_AFTER: Final = timedelta(days=3)
OLD_SECRET_SECONDS: Final = 24 * 3600.0
# The waits after failed attempts (the schedule that Standard Webhooks recommends, 75.6 hours in all).
RETRY_SECONDS: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Without an attempt for longer than any wait, nothing was sent, and the endpoint is not to blame.
UNTRIED_SECONDS: Final = 36 * 3600.0
_PROBES: Final = 3  # failed messages in a row, after which the endpoint is paused
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 5.0, 300.0

MEANS: Final = {
    EventType.JOB_ENDED: "A job succeeded, died or was cancelled: `state`, and `error` if it did not succeed",
    EventType.VIDEO_PUBLISHED: "A video became available: made by a job, uploaded, or stored anew at its key",
    EventType.VIDEO_CHANGED: "A video's bytes changed: `key`, `size_bytes`, `content_type` and `codec` are new",
    EventType.VIDEO_EXPIRING: "A video will be retired for `reason`, not before `expires_at`. If it is kept, viewed "
    "or held meanwhile, another notice follows when it is due again",
    EventType.VIDEO_RETIRED: "A video is no longer available, for `reason`; its bytes are deleted after `purge_after`",
    EventType.VIDEO_RESTORED: "A video is available again",
    EventType.VIDEO_PURGED: "A video's bytes were deleted for good",
    EventType.BUDGET_CROSSED: "A budget crossed a level: `scope`, `period`, `level` and the alert's text",
    EventType.CREDITS_LOW: "A request took a user's credits below `admission.low_credits_usd`: `user_id`, and "
    "`available_microusd`, which are left",
}


def of_audit(event: str, detail: Mapping[str, Any], state: str, *, is_present: bool) -> EventType | None:
    """Return the event that the service gets for an audited change; None: none.

    `state` is the video's after the change; `is_present`: the change was to its present bytes.
    """
    # guard webhooks.present: purging a swap's old bytes is reported as the purge of a live video
    if event == "purge":
        return EventType.VIDEO_PURGED if is_present and state == "gone" else None
    if event in {"retire", "delete", "takedown"}:
        return EventType.VIDEO_RETIRED
    if state != "live":
        return None
    changed = {"upload": bool(detail.get("before_bytes")), "swap": True}
    changed |= dict.fromkeys(("restore", "overwritten"), detail.get("was") == "live")
    if event not in changed:
        return None
    if changed[event]:
        return EventType.VIDEO_CHANGED
    return EventType.VIDEO_RESTORED if event == "restore" else EventType.VIDEO_PUBLISHED


def retry_seconds(attempts: int) -> int | None:
    """Return the seconds to wait after this number of failed attempts; None: the message is not tried again.

    >>> [retry_seconds(attempts) for attempts in (1, 2, 9, 10)], sum(RETRY_SECONDS) / 3600
    ([5, 300, 86400, None], 75.58472222222223)
    """
    return RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None


def pause_seconds(failures: int) -> float:
    """Return the seconds to pause an endpoint after this number of failed messages in a row.

    >>> [pause_seconds(failures) for failures in (1, 2, 3, 4, 9, 1_000)]
    [0.0, 0.0, 5.0, 10.0, 300.0, 300.0]
    """
    if failures < _PROBES:
        return 0.0
    return min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures - _PROBES, 10), _LAST_PAUSE_SECONDS)


def scope(endpoint_id: str) -> str:
    """Return the scope of alerts about an endpoint."""
    return f"webhook:{endpoint_id}"


def disabled(endpoint_id: str, reason: str) -> Finding:
    """Make the finding that an endpoint was disabled; later events wait for it."""
    return Finding(
        rule=DISABLED,
        scope=scope(endpoint_id),
        severity=Severity.CRITICAL,
        title=f"The webhook {endpoint_id} is disabled",
        text=f"{reason}. The service gets no events through it; they wait, in order.",
        suggestion=f"Fix the endpoint, then run: reelkeeper webhooks enable {endpoint_id}",
    )


def given_up(endpoint_id: str, day: str, message_id: str, error: str) -> Finding:
    """Make the finding that an endpoint has refused this message for three days, while it accepts others."""
    return Finding(
        rule=GIVEN_UP,
        scope=scope(endpoint_id),
        period=day,
        severity=Severity.WARNING,
        title=f"The webhook {endpoint_id} has not accepted a message for three days",
        text=f"{message_id} was given up: {error}. Later events of its video are sent without it.",
        suggestion=f"Fix the endpoint, then run: reelkeeper webhooks replay {endpoint_id}",
    )
