"""Explain a video in one place: its key, the rules, holds and views, and when a run may touch it next."""

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, time, timedelta
from functools import partial
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import DEFAULT_LAYOUT, parse_key
from reelkeeper.errors import NotFound
from reelkeeper.model import Action, Notice, Verdict, Video, VideoState
from reelkeeper.model.key_patterns import KeyPattern
from reelkeeper.model.money import next_month
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.plans import appraise
from reelkeeper.operations.lifecycle.restore import why_claimed
from reelkeeper.rules.core.tiers import TierPolicy, Tiers
from reelkeeper.rules.core.wording import UNTIL_LIVE, contract_gate, many
from reelkeeper.rules.lifecycle import lifecycle
from reelkeeper.rules.lifecycle.lifecycle import VIEW_WINDOW_DAYS, Appraise, LifecyclePolicy
from reelkeeper.rules.lifecycle.notices import goes_after
from reelkeeper.rules.lifecycle.selection import fit
from reelkeeper.rules.policies import Policies
from reelkeeper.rules.sync.adoption import REASONS
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.core.former_ids import known_videos
from reelkeeper.store.lifecycle import notices, restorable
from reelkeeper.store.videos import holds
from reelkeeper.store.videos.key_owners import noted_at, video_at
from reelkeeper.store.videos.videos import Listed, list_videos, live_videos
from reelkeeper.store.videos.views import find_copies

_UNVALUED: Final = "", None  # where only retirements are asked about
IF_VIEWED: Final = "if its views stay as they are"
IF_KNOWN: Final = "sooner, perhaps, once its views are known"
AT_EARLIEST: Final = "later where the limits of a run leave it to another, or refuse all of its plan"


class Reason(NamedTuple):
    """Something that decides about a video, such as its policy or a hold, and its effect."""

    what: str
    said: str


class Explained(NamedTuple):
    """Everything that decides about a video.

    `next_at`: the earliest time at which a run may touch it if its views stay as they are; None: never.
    """

    video_id: str
    state: str
    reasons: tuple[Reason, ...]
    next_at: datetime | None
    next_step: str

    def until_live(self) -> "Explained":
        """Return the explanation for a store on trial, in which the next step waits until it goes live."""
        then = f"not before {self.next_at:%Y-%m-%d %H:%M} UTC, by " if self.next_at else ""
        return self._replace(next_at=None, next_step=f"{UNTIL_LIVE}; then {then}{self.next_step}")


def find_video(session: Session, name: str) -> Listed:
    """Find a video by its id, the key of one of its objects, or the name of which an earlier version made its id.

    Raises NotFound, with the reason if sync left the object out.
    """
    for video_id in (name, video_at(session, name), known_videos(session, [name]).get(name)):
        if video_id and (found := list_videos(session, video_id=video_id)):
            return found[0]
    verdict = noted_at(session, name)
    left_out = f"; the object at this key was not adopted: {REASONS[verdict]}" if verdict in REASONS else ""
    raise NotFound(f"no video {name!r} in the catalogue{left_out}")


def explain(
    engine: Engine,
    name: str,
    prefix: str,
    keeps_contract: Callable[[], bool],
    layout: Sequence[KeyPattern] = DEFAULT_LAYOUT,
    *,
    failed: Collection[str] = (),
) -> Explained:
    """Explain what decides about a video, by its id or a key, under the policies in force. Raises NotFound.

    `keeps_contract`: whether the bucket has passed the contract, for results put in place and purges of service keys.
    `failed`: the checks of it that the bucket has failed.
    """
    with reading(engine) as session:
        listed, as_of, rules = find_video(session, name), now(session), in_force(session)
        video_id = listed.id
        live = next(live_videos(session, as_of, only=[video_id]), None)
        parsed = parse_key(prefix, listed.key or "", layout)
        is_ours = _is_ours(prefix, listed, layout)
        pattern = layout[parsed.pattern].text if parsed and parsed.pattern is not None else None
        reasons = [Reason("key", _key(listed, pattern, is_ours=is_ours)), Reason("state", _state(listed))]
        reasons += [Reason("hold", text) for text in _holds(session, listed)]
        if live is None:
            claimed = restorable.claimed(session, run_id=None, video_id=video_id, user_id=None)
            if claimed:
                return Explained(video_id, listed.state, tuple(reasons), None, why_claimed(claimed[video_id]))
            is_held = reasons[-1].what == "hold"
            next_at, step = _after_retirement(listed, as_of, is_held=is_held)
            if next_at and not is_ours and not keeps_contract():
                next_at, step = None, f"{contract_gate(failed)}; to show it again: {_to_restore(listed)}"
            return Explained(video_id, listed.state, tuple(reasons), next_at, step)
        notice = notices.standing(session, [video_id]).get(video_id)
        reasons += [Reason("notice", text) for text in _notice(live, notice, rules.policies.tiers)]
        reasons += [Reason("views", _views(live))]
        reasons += [Reason("original", text) for text in _original(session, listed, as_of)]
        judge = partial(_judge, rules.policies, appraise(session, rules.policies), keeps_contract())
        verdict = judge(live, as_of)
        reasons += [Reason(f"policy, version {rules.version}", _verdict(verdict, failed))]
        gate = contract_gate(failed)
        next_at, step = _next(live, rules.policies, as_of, notice, judge=judge, gate=gate)
        if next_at:
            step += f"; {AT_EARLIEST}"
        if next_at and next_at > as_of:
            step += f"; {IF_VIEWED if live.views is not None else IF_KNOWN}"
        return Explained(video_id, listed.state, tuple(reasons), next_at, step)


def _verdict(verdict: Verdict, failed: Collection[str]) -> str:
    match verdict:
        case Verdict(rule="contract_not_tried", figures=(Verdict() as left,)) if failed:
            return f"keep (contract_failed): {lifecycle.reason(left)}; but {contract_gate(failed)}"
    return f"{verdict.action.value} ({verdict.rule}): {lifecycle.reason(verdict)}"


class Outlook(NamedTuple):
    """A video, and the earliest time at which its bytes may be retired or purged, with the rule; None: never."""

    video: Listed
    expires_at: datetime | None
    why: str


def outlooks(session: Session, listed: Sequence[Listed], workspace: Workspace | None = None) -> list[Outlook]:
    """Return, for each video, when it may be retired or purged if its views and holds stay as they are.

    Without a workspace, as if its bucket had passed the contract.
    """
    as_of, policies = now(session), in_force(session).policies
    wanted = [item.id for item in listed]
    live = {video.id: video for video in live_videos(session, as_of, only=wanted)}
    standing = notices.standing(session, wanted)
    # guard plans.outlook_gate: users are told of a day on which no run may touch their videos
    is_tried = workspace is None or workspace.has_kept_contract(session)
    judge = partial(_judge, policies, _UNVALUED, is_tried)
    at = workspace.bucket if workspace else None
    gate = contract_gate(deployment.contract_failed(session, at.endpoint_url, at.name) if at else ())

    def outlook(item: Listed) -> Outlook:
        if workspace is not None and workspace.on_trial:
            return Outlook(item, None, UNTIL_LIVE)
        if item.id in live:
            return Outlook(
                item,
                *_next(live[item.id], policies, as_of, standing.get(item.id), {Action.RETIRE}, judge=judge, gate=gate),
            )
        next_at, step = _after_retirement(item, as_of)
        if next_at and workspace and not is_tried and not _is_ours(workspace.bucket.prefix, item, workspace.layout):
            return Outlook(item, None, gate)
        return Outlook(item, next_at, step)

    return [outlook(item) for item in listed]


def _is_ours(prefix: str, listed: Listed, layout: Sequence[KeyPattern]) -> bool:
    parsed = parse_key(prefix, listed.key or "", layout)
    return parsed is not None and parsed.generation is not None


def _key(listed: Listed, pattern: str | None, *, is_ours: bool) -> str:
    if listed.key is None:
        return "none recorded"
    if is_ours:
        return f"{listed.key}: made by Reelkeeper, written once"
    read = f"read with pattern {pattern}" if pattern else "from CSV"
    return f"{listed.key}: the service's, which may overwrite it at any time; {read}"


def _state(listed: Listed) -> str:
    if listed.state == VideoState.LIVE:
        return f"live, generation {listed.generation}" + (f"; {listed.reason}" if listed.reason else "")
    word = " since" if listed.state == VideoState.RETIRED else ", retired on"
    since = f"{word} {listed.retired_at:%Y-%m-%d %H:%M}" if listed.retired_at else ""
    return f"{listed.state}{since}" + (f": {listed.reason}" if listed.reason else "")


def _holds(session: Session, listed: Listed) -> Iterator[str]:
    for hold_line in holds.in_force(session):
        if (hold_line.scope, hold_line.subject) in (("video", listed.id), ("user", listed.user_id)):
            until = f"until {hold_line.expires_at:%Y-%m-%d %H:%M}" if hold_line.expires_at else "until it is released"
            yield f"{hold_line.id} of the {hold_line.scope}, by {hold_line.author}: {hold_line.reason}; {until}"


def _notice(live: Video, notice: Notice | None, tiers: Tiers) -> Iterator[str]:
    tier = tiers.get(live.tier)
    days = tier.notice_days if tier else 0
    if notice is None:
        if days:
            yield f"{many(days, 'day')} promised, none given so far"
    elif notice.told_at is None:
        yield "given, but not every endpoint has accepted it: reelkeeper webhooks list"
    else:
        yield f"delivered to all endpoints on {notice.told_at:%Y-%m-%d %H:%M}, {many(days, 'day')} ahead"


def _views(live: Video) -> str:
    if live.views is None:
        return (
            f"unknown: some of the last {VIEW_WINDOW_DAYS} days are incomplete, so no rule that depends on views acts"
        )
    return f"{live.views:,} in {VIEW_WINDOW_DAYS} days"


def _original(session: Session, listed: Listed, as_of: datetime) -> Iterator[str]:
    copies = find_copies(session, listed.id, as_of)
    if copies is not None and copies.original is not None:
        yield f"kept for its grace at {copies.original.key}: {_to_restore(listed)}"


def _judge(
    policies: Policies, by: tuple[str, Appraise | None], keeps_contract: bool, live: Video, as_of: datetime
) -> Verdict:
    (mark, worth), recipe = by, policies.recipe
    judge = lifecycle.judging(policies.lifecycle, policies.tiers, as_of, mark, recipe.skip_codecs, worth)
    return fit(judge(live), recipe.place, keeps_contract=keeps_contract)


def _to_restore(listed: Listed) -> str:
    return shlex.join(["reelkeeper", "restore", "--video", listed.id])


def _after_retirement(listed: Listed, as_of: datetime, *, is_held: bool = False) -> tuple[datetime | None, str]:
    back = _to_restore(listed)
    if listed.state != VideoState.RETIRED or not listed.purge_after:
        return None, "no run touches it"
    if is_held:
        return None, f"no run touches it while it is held; to show it again: {back}"
    return max(listed.purge_after, as_of), f"purge_retired, which deletes its bytes; until then: {back}"


def _next(
    live: Video,
    policies: Policies,
    as_of: datetime,
    notice: Notice | None,
    actions: Collection[Action] = (Action.COMPRESS, Action.RETIRE),
    *,
    judge: Callable[[Video, datetime], Verdict],
    gate: str,
) -> tuple[datetime | None, str]:
    """Find the first moment at which a rule may do one of `actions`, if views and holds stay as they are.

    `gate`: what is said where only the contract test stands in the way.
    """
    if live.held:
        return None, "no run touches it while it is held"
    tier = policies.tiers.get(live.tier)
    if live.created_at is None or tier is None:
        return None, "no run touches it while its age or tier is unknown"
    moments, is_gated = [], False
    kept_by = policies.lifecycle.tiers_for(live, policies.tiers).get(live.tier) or tier
    policy = policies.lifecycle.for_video(live)
    for moment in _moments(live, live.created_at, policy, kept_by, as_of):
        verdict = judge(live, moment)
        is_gated |= verdict.rule == "contract_not_tried"
        if verdict.action in actions:
            waits = tier.notice_days if verdict.action is Action.RETIRE else 0
            due = _after_notice(moment, waits, notice, as_of)
            flow = "expire_videos" if verdict.rule == "past_retention" else "tier_storage"
            moments.append((due, f"{flow}: {verdict.action.value}, {lifecycle.reason(verdict)}"))
    return min(moments, default=(None, gate if is_gated else "no run touches it at its current views"))


def _moments(
    live: Video, created_at: datetime, policy: LifecyclePolicy, tier: TierPolicy, as_of: datetime
) -> Iterator[datetime]:
    """Return the times, from now on, at which another rule may begin to apply."""
    for days in {policy.compress_after_days, policy.retire_after_days, tier.retention_days} - {None}:
        with suppress(OverflowError):
            yield max(as_of, created_at + timedelta(days=days or 0, microseconds=1))
    if live.kept_until is not None:
        yield max(as_of, live.kept_until)
    if live.refused_recipe:  # for a month, perhaps
        yield datetime.combine(next_month(as_of), time(), as_of.tzinfo)


def _after_notice(due: datetime, days: int, notice: Notice | None, as_of: datetime) -> datetime:
    if not days:
        return due
    if notice is None or notice.told_at is None:
        return max(due, as_of + timedelta(days=days))
    return max(due, goes_after(notice.expires_at, notice.told_at, days))
