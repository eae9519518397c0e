"""Compute the effect of new policies, check it against the blast radius, put them in force, and audit the change."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reelkeeper.errors import GuardRefused, PlanRefused, TierRefused
from reelkeeper.model import Action, Counts, PlanSummary, Verdict, Video
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core import policies
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.lifecycle.plans import appraise
from reelkeeper.rules.billing.pricing import storage_microusd_per_month
from reelkeeper.rules.core.earlier_policies import instead
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle import guard, lifecycle, segments, selection, worth
from reelkeeper.rules.policies import InForce, Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import policies as versions
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.lifecycle import plan_results
from reelkeeper.store.videos import stock
from reelkeeper.store.videos.videos import live_videos, users_by_tier

_SAMPLES = 3


@dataclass(slots=True)
class Effect:
    """The effect of other policies, as of one moment. Money is micro-dollars of storage per month, at list price.

    It is what plans would do, which change nothing at the service's keys without a passed contract test. The limits are
    checked against what they would do with one: that of a bucket is soon passed.
    """

    as_of: datetime
    before: InForce
    after: Policies
    live: Counts = field(default_factory=Counts)
    stored_bytes: int = 0  # of all objects, which R2's free allowance covers or not
    newly_retired: Counts = field(default_factory=Counts)  # kept by the policies in force
    newly_kept: Counts = field(default_factory=Counts)  # retired by the policies in force
    newly_compressed: int = 0
    no_longer_compressed: int = 0
    saved_bytes: int = 0  # by what is retired and what results are expected to save; negative: more is stored
    unknown_views: int = 0  # videos whose views decide by either policies and are unknown, which keeps them
    # What either would do with those had nobody viewed them: videos by whether afterwards, and by action.
    unwatched: Counter[tuple[bool, Action]] = field(default_factory=Counter)
    left_untested: int = 0  # that these policies would retire or compress, in a bucket with a passed contract
    retired_with_contract: Counts = field(default_factory=Counts)  # newly, those of `left_untested` too
    retired_by_segment: dict[str, Counts] = field(default_factory=dict)  # of those newly retired
    # Live videos by the deciding segment now and afterwards, and by tier; counted only with segments.
    by_segments: Counter[tuple[str | None, str | None, str | None]] = field(default_factory=Counter)
    retired_by_user: dict[str, Counts] = field(default_factory=dict)  # of `retired_with_contract`, as the samples
    live_by_user: dict[str, int] = field(default_factory=dict)
    users_by_tier: dict[str, int] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    retired_in_24h: int = 0
    without_effect: Mapping[str, object] = field(default_factory=dict)  # fields of `before` that nobody can set now

    @property
    def changes(self) -> dict[str, tuple[object, object]]:
        """List each field that changes: its dotted name, its value now and afterwards."""
        gone = {name: (value, instead(name, value)) for name, value in self.without_effect.items()}
        return self.before.policies.changes(self.after) | gone

    @property
    def saved_microusd_a_month(self) -> int:
        """Compute the saved storage cost a month, once all is done and every grace is over; negative: additional."""
        return storage_microusd_per_month(self.saved_bytes)

    def broken_promises(self) -> Iterator[str]:
        """List the promises that would get worse for users of each tier."""
        old, new = self.before.policies, self.after
        for name, was in old.tiers.items():
            then = new.tiers.get(name)
            users = self._users(name)
            if then is None:
                yield f"{users} would have no tier: their videos would be kept, and they could store nothing new"
                continue
            days = then.retention_days
            if days is not None and (was.retention_days is None or days < was.retention_days):
                kept = "for ever" if was.retention_days is None else many(was.retention_days, "day")
                yield f"{users} would keep videos {many(days, 'day')}, not {kept}"
            if then.notice_days < was.notice_days:
                change = f"{many(then.notice_days, 'day')} before retirement, not {was.notice_days}"
                yield f"videos of {users} would be announced {change}"
            if then.quota_bytes < was.quota_bytes:
                yield f"{users} could store {then.quota_bytes:,} bytes, not {was.quota_bytes:,}"
            # guard policy.keeps: users can keep their videos for fewer days, and nobody is told before it is applied
            if then.keep_days < was.keep_days:
                yield f"{users} could keep a video {many(then.keep_days, 'day')} longer, not {was.keep_days}"
        yield from self._shorter_by_segment()
        before, after = old.lifecycle, new.lifecycle
        # guard policy.keep_times: users can keep their videos fewer times, and nobody is told before it is applied
        if after.keep_times < before.keep_times:
            yield f"a video could be kept {many(after.keep_times, 'time')}, not {before.keep_times}"
        for whose, promised, days in (
            ("", before.grace.days, after.grace.days),
            # guard policy.service_grace: a shorter grace of the service's own videos is applied without a word
            (" at your service's own keys", before.grace.service_days, after.grace.service_days),
        ):
            if days < promised:
                yield f"videos{whose} retired from now on could be restored for {many(days, 'day')}, not {promised}"

    def _shorter_by_segment(self) -> Iterator[str]:
        for (was, then, tier), videos in sorted(self.by_segments.items(), key=str):
            before, after = (
                policies.lifecycle.tiers_within(name, policies.tiers).get(tier)
                for policies, name in ((self.before.policies, was), (self.after, then))
            )
            if (was, then) == (None, None) or before is None or after is None:
                continue
            usual, days = before.retention_days, after.retention_days
            if days is not None and (usual is None or days < usual):
                by = f"segment {then}" if then else "the policy"
                kept = "for ever" if usual is None else many(usual, "day")
                yield f"by {by}, {many(videos, 'video')} of {tier} users would be kept {many(days, 'day')}, not {kept}"

    def _users(self, tier: str) -> str:
        return many(self.users_by_tier.get(tier, 0), f"{tier} user")

    @property
    def removed_tiers(self) -> tuple[str, ...]:
        """List the tiers in force that would be removed."""
        return tuple(name for name in self.before.policies.tiers.names if self.after.tiers.get(name) is None)

    def require_no_users_left(self) -> None:
        """Raise TierRefused where a tier with users, at the time of computing, would be removed."""
        _require_no_users(self.after, self.removed_tiers, self.users_by_tier)

    def require_within_limits(self) -> None:
        """Raise GuardRefused where more would be newly retired than the limits in force allow one run to retire.

        A document cannot raise the limit that it is checked by: apply the higher limit first.
        """
        plan = PlanSummary(
            id="of this document",
            flow="policy apply",
            as_of=self.as_of,
            population=self.live,
            retire=self.retired_with_contract,
            compress=Counts(),
            retire_by_user=self.retired_by_user,
            live_by_user=self.live_by_user,
            samples=self.samples,
        )
        try:
            # guard policy.limits_before: a document raises the limit that it is checked by
            guard.within(self.before.policies.limits, plan, self.retired_in_24h, None)
        except GuardRefused as refused:
            lines = [line for line in str(refused).splitlines() if not line.lstrip().startswith(("plan:", "override:"))]
            lines.append(
                "  override: apply a document that raises these limits alone first, or lower retention in steps"
            )
            raise GuardRefused("\n".join(lines)) from None


def effect_of(engine: Engine, after: Policies, *, service_keys: bool = True) -> Effect:
    """Judge every live video by the policies in force and by `after`, in flat memory. Changes nothing.

    `service_keys`: whether plans have the videos at the service's keys, by `previews.plans_service_keys`. Raises
    SchemaError where the policies in force cannot be read.
    """
    with reading(engine) as session:
        version, as_of = versions.in_force(session).version, now(session)
        before, without_effect = policies.stored(session, version)
        found = Effect(as_of, InForce(version, before), after, without_effect=without_effect)
        found.stored_bytes = stock.stored_bytes(session)
        found.retired_in_24h = plan_results.retired_in_24h(session)
        found.users_by_tier = users_by_tier(session)
        _compare(session, found, as_of, service_keys=service_keys)
        return found


def apply(engine: Engine, effect: Effect, *, author: str, reason: str) -> int:
    """Put the policies of `effect` in force; return their version. Raises Frozen.

    Raises GuardRefused, TierRefused where a tier with users would be removed, and PlanRefused where others were applied
    since the effect was computed.
    """
    # guard policy.blast_radius: one wrong number in a document retires most videos the next night
    effect.require_within_limits()
    before = effect.before.version
    with transaction(engine, "policy.apply") as session:
        require_permission(session, replaces_policies=True)
        version = policies.put_in_force(session, effect.after, after=before, author=author, reason=reason)
        if version is None:
            other = versions.history(session)[0]
            raise PlanRefused(
                f"nothing was applied: {other.author} applied version {other.version} at {other.created_at:%H:%M:%S} "
                f"UTC ({other.reason}), but this document was compared with version {before}. See reelkeeper policy "
                "diff, and apply again"
            )
        kept, wanted = effect.before.policies.admission, effect.after.admission
        # guard spend.limit_raised: a limit that was raised is reported as used up until its month ends
        limits.forget_refusals(session, kept.spend_limits, wanted.spend_limits)
        # guard spend.budget_raised: nobody is told that a raised budget is used up, as the earlier one was
        limits.judge_anew(session, effect.before.policies, effect.after)
        if effect.removed_tiers:
            # guard policy.tier_in_use: users stay in a removed tier, with no promises and no quota
            _require_no_users(effect.after, effect.removed_tiers, users_by_tier(session))  # imports wait for this
        changes = {name: [str(was), str(now_)] for name, (was, now_) in effect.changes.items()}
        append(session, [Event("policy", author, detail={"version": version, "reason": reason, "changes": changes})])
    return version


def _require_no_users(after: Policies, removed: Sequence[str], users: Mapping[str, int]) -> None:
    if taken := [f"{name} ({many(users[name], 'user')})" for name in removed if users.get(name)]:
        raise TierRefused(
            f"nothing was applied: the tiers are only {', '.join(after.tiers.names)} then, and users have "
            f"{', '.join(taken)}. A document that names a tier must name all: add {', '.join(removed)}, as reelkeeper "
            "policy show prints them. Only to remove a tier for good, give its users another one first"
        )


def _compare(session: Session, found: Effect, as_of: datetime, *, service_keys: bool) -> None:
    totals, by_segment, by_user = (defaultdict[str, list[int]](lambda: [0, 0]) for _ in range(3))
    lives, samples = Counter[str](), list[str]()

    def count(sums: dict[str, list[int]], name: str, video: Video) -> None:
        both = sums[name]
        both[0], both[1] = both[0] + 1, both[1] + video.size_bytes

    both = found.before.policies, found.after
    judges = [_judging(session, policies, as_of, service_keys=service_keys) for policies in both]
    old, new = found.before.policies.lifecycle, found.after.lifecycle
    has_segments = bool(old.segments or new.segments)
    for video in live_videos(session, as_of, classified=has_segments):
        if has_segments:
            found.by_segments[old.segment_of(video), new.segment_of(video), video.tier] += 1
        count(totals, "live", video)
        lives[video.user_id] += 1
        (was_passed, was), (then_passed, then) = (judge(video) for judge in judges)
        if _is_newly(Action.RETIRE, was_passed, then_passed):
            count(totals, "with_contract", video)
            count(by_user, video.user_id, video)
            if len(samples) < _SAMPLES:
                samples.append(video.id)
        is_unknown = "unknown_views" in {was.rule, then.rule}
        found.unknown_views += is_unknown
        for after, judge in enumerate(judges if is_unknown else ()):
            found.unwatched[bool(after), judge(video._replace(views=0))[1].action] += 1
        found.left_untested += then.rule == "contract_not_tried"
        found.saved_bytes += _saved_bytes(then) - _saved_bytes(was)
        found.newly_compressed += _is_newly(Action.COMPRESS, was, then)
        found.no_longer_compressed += _is_newly(Action.COMPRESS, then, was)
        if _is_newly(Action.RETIRE, was, then):
            count(totals, "retired", video)
            if name := segments.of_verdict(then):
                count(by_segment, name, video)
        elif _is_newly(Action.RETIRE, then, was):
            count(totals, "kept", video)
    found.live, found.newly_retired, found.newly_kept, found.retired_with_contract = (
        Counts(*totals[name]) for name in ("live", "retired", "kept", "with_contract")
    )
    found.retired_by_segment = {name: Counts(*both) for name, both in by_segment.items()}
    found.retired_by_user = {user: Counts(*both) for user, both in by_user.items()}
    found.live_by_user = {user: lives[user] for user in by_user}
    found.samples = tuple(samples)


def _judging(
    session: Session, policies: Policies, as_of: datetime, *, service_keys: bool
) -> Callable[[Video], tuple[Verdict, Verdict]]:
    """Make a function that judges as plans do in a bucket that has passed the contract test, and as they do in ours."""
    recipe = policies.recipe
    mark, worths = appraise(session, policies)
    rule = lifecycle.judging(policies.lifecycle, policies.tiers, as_of, mark, recipe.skip_codecs, worths)

    def judged(video: Video) -> tuple[Verdict, Verdict]:
        passed = selection.fit(rule(video), recipe.place, keeps_contract=True)
        return passed, passed if service_keys else selection.fit(passed, recipe.place, keeps_contract=False)

    return judged


def _is_newly(action: Action, was: Verdict, then: Verdict) -> bool:
    return then.action is action is not was.action


def _saved_bytes(verdict: Verdict) -> int:
    if verdict.action is Action.RETIRE:
        return verdict.video.size_bytes
    is_encoded = verdict.action is Action.COMPRESS
    return sum(figure.saved_bytes for figure in verdict.figures if is_encoded and isinstance(figure, worth.Worth))
