"""Keep a video on its user's request, for the days that the policy grants the tier.

It is weaker than a hold: it ends by itself, and the user or a takedown may still delete the video. A freeze does not
stop it, as it deletes nothing.
"""

from datetime import timedelta

from reelkeeper.errors import KeepRefused, NotFound
from reelkeeper.model import VideoState
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.lifecycle.why import outlooks
from reelkeeper.rules.billing.credits import fingerprint
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.lifecycle import notices
from reelkeeper.store.lifecycle.notices import Kept
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.videos import Listed, list_videos


def keep(engine: Engine, video_id: str, *, by: str, key: str, user_id: str | None = None) -> Kept:
    """Prolong a video's life, from its due date, or from now where it has none. Once for each `key`.

    It ends a notice of retirement. `user_id`: only if the video is this user's. Raises NotFound for a video unknown,
    gone, or another user's; KeepRefused where its tier does not offer this, no prolongation is left, or the video is
    not live.
    """
    keep_id = fingerprint(key=key, video=video_id)[:32]
    with transaction(engine, "keep") as session:
        deployment.lock(session)  # first, as in every change: another order could deadlock
        known = uploads.current(session, video_id, locked=True)
        # guard keep.own_video: a user keeps another user's video
        if known is None or known.state == VideoState.GONE or user_id not in (None, known.user_id):
            raise NotFound.for_user("video", video_id, user_id)
        # guard keep.once: a repeated request prolongs a video twice
        if (before := notices.find_keep(session, keep_id)) is not None:
            return before
        (listed,) = list_videos(session, video_id=video_id)
        times = notices.times_kept(session, video_id)
        days = _days(listed, in_force(session).policies, times)
        (outlook,) = outlooks(session, [listed])
        at = now(session)
        until = max(at, outlook.expires_at or at) + timedelta(days=days)
        notices.add_keep(session, keep_id, video_id, days=days, until=until, author=by)
        # guard keep.notice: a kept video is later retired by its earlier notice
        notices.end(session, [video_id], "kept on request")
        detail = {"until": until.isoformat(), "days": days, "times": times + 1}
        append(session, [Event("keep", by, video_id, known.blob_id, known.user_id, detail)])
        return Kept(video_id, until, times + 1)


def _days(video: Listed, policies: Policies, times: int) -> int:
    if video.state != VideoState.LIVE:
        raise KeepRefused(
            f"video {video.id!r} is {video.state}: only a live video can be kept longer. An operator may be able to "
            "restore it"
        )
    tier = policies.tiers.get(video.tier)
    days = tier.keep_days if tier else 0
    if not days:
        raise KeepRefused(f"the tier {video.tier or 'unknown'} does not keep videos longer on request")
    # guard keep.times: repeated requests keep a video for ever
    if times >= policies.lifecycle.keep_times:
        raise KeepRefused(f"video {video.id!r} was already kept longer {many(times, 'time')}, which is the limit")
    return days
