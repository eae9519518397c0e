"""Read saved plans and their items, let one run apply each, and record its outcomes. `plan_writer` makes them.

begin_applying(session, plan_id, "tier_storage", policy.model_dump(mode="json"), run_id)   # once, within a day
for batch in planned(session, plan_id, "retire"): ...
record_outcomes(session, plan_id, outcomes)
"""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import NotFound, PlanRefused
from reelkeeper.model import Action, Counts, Outcome, PlanSummary, VideoState
from reelkeeper.store.core.engine import Clock, changed, now
from reelkeeper.store.lifecycle.purges import open_claims
from reelkeeper.store.tables import plans, verdicts, videos

MAX_AGE_HOURS = 24  # an older plan may contradict newer views, holds and uploads
_SAMPLES = 10
OPEN = ("ready", "refused")
LIMITS = "limits"  # beside the terms of a plan: those that it was made under
_PARAMETERS = {"max_objects": "limits.max_objects"}  # terms that a run takes under another name
_GOING = (Action.RETIRE.value, "purge")


class Item(NamedTuple):
    """One line of a plan: a blob, and what to do with it. `action` is compress, retire or purge."""

    blob_id: int
    video_id: str | None
    user_id: str | None
    generation: int
    action: str
    rule: str
    reason: str
    size_bytes: int
    saving_microusd: int | None  # per month, at the marginal price; None if unknown in advance
    net_microusd: int | None = None  # over the rest of the video's life, less CPU and requests
    segment: str | None = None  # the policy's segment that decided


class Approved(NamedTuple):
    """A plan that an operator approved: its refusal, and the limits widened for it."""

    plan_id: str
    flow: str
    at: datetime
    refusal: str
    widening: dict[str, float]
    given: Mapping[str, Any] = MappingProxyType({})  # parameters that it was made with, but for limits

    @property
    def command(self) -> str:
        """Return the command that carries the plan out."""
        params = (f" --param {shlex.quote(f'{name}={value}')}" for name, value in as_params(self.given))
        return f"reelkeeper run {self.flow} --apply --plan {self.plan_id}{''.join(params)}"


def load_summary(session: Session, plan_id: str) -> PlanSummary:
    """Sum up a saved plan, without the videos of users who were erased since. `retire` counts all removals, purges too.

    Raises NotFound.
    """
    plan = _plan(session, plan_id)
    # guard plans.erased: a plan is refused as impossible, approved or not, since a user of it was erased
    stands = sa.or_(verdicts.c.video_id.is_not(None), verdicts.c.action == "purge")
    is_of_plan = sa.and_(verdicts.c.plan_id == plan_id, stands)
    counted = (sa.func.count(), sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0))
    by_action = session.execute(
        sa.select(verdicts.c.action, *counted).where(is_of_plan).group_by(verdicts.c.action)
    ).all()
    going = [is_of_plan, verdicts.c.action.in_(_GOING)]
    by_user = session.execute(
        sa.select(verdicts.c.user_id, *counted)
        .where(*going, verdicts.c.user_id.is_not(None))
        .group_by(verdicts.c.user_id)
    )
    live = session.execute(  # as the plan counted them: with those of it that another has retired since
        sa.select(videos.c.user_id, sa.func.count())
        .where(sa.or_(videos.c.state == VideoState.LIVE, is_to_retire(plan_id)))
        .where(videos.c.user_id.in_(sa.select(verdicts.c.user_id).where(*going)))
        .group_by(videos.c.user_id)
    )
    samples = session.scalars(
        sa.select(verdicts.c.video_id).where(*going).order_by(verdicts.c.size_bytes.desc()).limit(_SAMPLES)
    )
    return PlanSummary(
        id=plan_id,
        flow=plan.flow,
        as_of=plan.as_of,
        population=Counts(plan.population, plan.population_bytes),
        retire=_sum(by_action, _GOING),
        compress=_sum(by_action, (Action.COMPRESS.value,)),
        retire_by_user={user_id: Counts(int(count), int(size)) for user_id, count, size in by_user},
        live_by_user={user_id: int(count) for user_id, count in live},
        kept=dict(plan.kept),
        samples=tuple(video_id for video_id in samples if video_id is not None),
        approved=dict(plan.widening) if plan.approved_at else {},
        claimed=tuple(open_claims(session)) if plan.flow == "purge_retired" else (),
    )


def is_to_retire(plan_id: str | None) -> sa.ColumnElement[bool]:
    """Build the condition that a plan has a video to retire."""
    chosen = verdicts.c.plan_id == plan_id, verdicts.c.action == Action.RETIRE, verdicts.c.video_id.is_not(None)
    return videos.c.id.in_(sa.select(verdicts.c.video_id).where(*chosen))


def planned(session: Session, plan_id: str, action: str, batch_size: int = 500) -> Iterator[list[Item]]:
    """Stream a plan's items with `action`, largest first, in lists of at most `batch_size`."""
    columns = [verdicts.c[name] for name in Item._fields]
    rows = session.execute(
        sa.select(*columns)
        .where(verdicts.c.plan_id == plan_id, verdicts.c.action == action)
        .order_by(verdicts.c.size_bytes.desc(), verdicts.c.blob_id),
        execution_options={"yield_per": batch_size},
    )
    for batch in rows.partitions():
        yield [Item(*row) for row in batch]


def record_outcomes(session: Session, plan_id: str, outcomes: Sequence[Outcome]) -> None:
    """Record the outcomes of a plan's items, found by blob, or by video where no blob is given."""
    by_blob = [outcome for outcome in outcomes if outcome.blob_id is not None]
    by_video = [outcome for outcome in outcomes if outcome.blob_id is None]
    for column, chosen in ((verdicts.c.blob_id, by_blob), (verdicts.c.video_id, by_video)):
        if chosen:
            session.connection().execute(
                sa.update(verdicts)
                .where(verdicts.c.plan_id == plan_id, column == sa.bindparam("subject"))
                # A batch is repeated where the bucket failed in the middle: what it had purged stays purged.
                .where(verdicts.c.outcome.is_distinct_from("purged"))
                .values(
                    outcome=sa.bindparam("done"), outcome_reason=sa.bindparam("why"), after_bytes=sa.bindparam("left")
                ),
                [
                    {
                        "subject": outcome.video_id if outcome.blob_id is None else outcome.blob_id,
                        "done": outcome.action,
                        "why": outcome.reason,
                        "left": outcome.after_bytes,
                    }
                    for outcome in chosen
                ],
            )


def count_failures(session: Session, blob_id: int, errors: Sequence[str]) -> int:
    """Count the plans in which the blob failed with these classes of errors. Reads every verdict: call it rarely."""
    by_these = sa.or_(*(verdicts.c.outcome_reason.startswith(f"{error}:", autoescape=True) for error in errors))
    failed = sa.and_(verdicts.c.blob_id == blob_id, verdicts.c.outcome == "failed", by_these)
    counted = sa.select(sa.func.count()).select_from(verdicts).where(failed)
    return session.execute(counted).scalar_one()


def begin_applying(session: Session, plan_id: str, flow: str, policy: Mapping[str, Any], run_id: str) -> None:
    """Claim a plan for this run: `ready` becomes `applied`, once. A run that was handed over goes on with its own.

    Age is judged by the database's clock.
    A plan that the guard has refused may be claimed too, by a run with wider limits.

    Raises PlanRefused for a plan that is used, older than 24 h, another flow's, or made under another policy; NotFound.
    """
    hashed = policy_hash(policy)
    claimed = session.execute(
        sa.update(plans)
        .where(
            plans.c.id == plan_id,
            # guard plans.once: one plan is carried out twice
            sa.or_(
                plans.c.state.in_(OPEN),
                # guard plans.handed_over: an approved plan is left half done as its run's worker is replaced
                sa.and_(plans.c.state == "applied", plans.c.run_id == run_id),
            ),
            # guard plans.own_flow: a flow carries out another flow's plan
            plans.c.flow == flow,
            # guard plans.same_policy: a plan made under other policies is carried out
            plans.c.policy_hash == hashed,
            # guard plans.of_today: an old plan is carried out against newer views, holds and uploads
            plans.c.created_at > Clock(-MAX_AGE_HOURS * 3600),
        )
        .values(state="applied", applied_at=Clock(), run_id=run_id)
        .returning(plans.c.id)
    )
    if claimed.one_or_none() is None:
        why, again = _why_not(session, plan_id, flow, policy)
        raise PlanRefused(f"plan {plan_id} {why}. Nothing was changed. {again or 'Make a new plan'}")


def refuse_plan(session: Session, plan_id: str, refusal: str, widening: Mapping[str, float] | None = None) -> bool:
    """Record why the guard refused a plan, and the limits that would allow it; False if it was applied.

    An earlier approval ends: it does not cover the new refusal.
    """
    # guard plans.approval_over: an approval of a plan's figures allows larger ones
    values: dict[str, Any] = dict.fromkeys(("approved_at", "approved_by", "approval_reason"))
    values |= {"state": "refused", "refusal": refusal, "widening": dict(widening or {})}
    return bool(
        changed(session, sa.update(plans).where(plans.c.id == plan_id, plans.c.state != "applied").values(values))
    )


def note_refusal(session: Session, plan_id: str, refusal: str | None) -> None:
    """Record why the guard would refuse a plan that a dry run has made, or that it would not."""
    session.execute(sa.update(plans).where(plans.c.id == plan_id, plans.c.state == "ready").values(refusal=refusal))


def refusal_of(session: Session, plan_id: str) -> str:
    """Read the guard's refusal of a plan; empty if it was not refused. Raises NotFound."""
    return _plan(session, plan_id).refusal or ""


def approve_plan(session: Session, plan_id: str, *, author: str, reason: str) -> Approved:
    """Approve a plan that the guard refused, for one run within the refused figures.

    Raises PlanRefused for one that was not refused, is approved, applied or older than 24 h, or that no limit would
    allow; NotFound.
    """
    session.execute(sa.select(plans.c.id).where(plans.c.id == plan_id).with_for_update())
    plan, at = _plan(session, plan_id), now(session)
    refused = f"plan {plan_id} cannot be approved, and nothing was changed: it"
    # guard plans.approve_once: one refusal is approved and reported twice
    if plan.approved_at and plan.state == "refused":
        raise PlanRefused(f"{refused} was approved by {plan.approved_by} on {plan.approved_at:%Y-%m-%d %H:%M} UTC")
    # guard plans.approve_refused: a plan is approved that the guard has not checked, or that was carried out
    if plan.state != "refused":
        raise PlanRefused(f"{refused} is {plan.state}, and was not refused")
    # guard plans.approve_today: an old plan is approved against newer views, holds and uploads
    if at - plan.created_at > timedelta(hours=MAX_AGE_HOURS):
        raise PlanRefused(f"{refused} is more than {MAX_AGE_HOURS} h old")
    # guard plans.approve_possible: a plan with impossible figures is carried out after an approval
    if not plan.widening:
        raise PlanRefused(f"{refused} has impossible figures. Make a new plan after sync_catalog")
    values = {"approved_at": at, "approved_by": author, "approval_reason": reason}
    session.execute(sa.update(plans).where(plans.c.id == plan_id).values(values))
    return Approved(plan.id, plan.flow, at, plan.refusal or "", dict(plan.widening))


def policy_hash(policy: Mapping[str, Any]) -> str:
    """Hash a policy, regardless of the order of its fields: SHA-256 in hex of its canonical JSON."""
    return hashlib.sha256(json.dumps(policy, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _why_not(session: Session, plan_id: str, flow: str, policy: Mapping[str, Any]) -> tuple[str, str]:
    """Say why a plan is not carried out, and how it would be, if at all."""
    plan = _plan(session, plan_id)
    if plan.flow != flow:
        return f"was made by {plan.flow}, not by {flow}", ""
    if plan.state == "applied":
        return f"was already applied on {plan.applied_at:%Y-%m-%d %H:%M:%S} UTC", ""
    if plan.state not in OPEN:
        return f"is {plan.state}, not ready", ""
    if plan.policy_hash != policy_hash(policy):
        terms = {name: value for name, value in plan.policy.items() if name != LIMITS}
        then, today = dict(as_params(terms)), dict(as_params(policy))
        differing = [name for name in sorted(then | today) if then.get(name) != today.get(name)]
        shown = ", ".join(f"{name}={then.get(name, '-')} then, {today.get(name, '-')} now" for name in differing)
        params = " ".join(f"--param {shlex.quote(f'{name}={then[name]}')}" for name in differing if name in then)
        again = f"As it was made: reelkeeper run {flow} --apply --plan {plan_id} {params}\n  or make a new plan"
        return f"was made under another policy: {shown}", again
    hours = (now(session) - plan.created_at).total_seconds() / 3600
    return f"is {hours:.1f} h old, limit {MAX_AGE_HOURS} h", ""


def as_params(terms: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield each field of a plan's terms, or of a run's parameters, by the name and in the form of `--param`."""
    for name, value in terms.items():
        path = _PARAMETERS.get(name, f"{before}{name}")
        if isinstance(value, Mapping):
            yield from as_params(value, f"{path}.")
        else:
            yield path, value if isinstance(value, str) else "never" if value is None else json.dumps(value)


def _plan(session: Session, plan_id: str) -> sa.Row[Any]:
    plan = session.execute(sa.select(plans).where(plans.c.id == plan_id)).one_or_none()
    if plan is None:
        raise NotFound(f"no plan {plan_id!r}. To see the plans: reelkeeper plan")
    return plan


def _sum(by_action: Sequence[sa.Row[str, int, int]], actions: Sequence[str]) -> Counts:
    chosen = [(int(count), int(size)) for action, count, size in by_action if action in actions]
    return Counts(sum(count for count, _ in chosen), sum(size for _, size in chosen))
