"""Write a saved plan as a document: items with reasons, bytes and dollars, the videos kept, and what became of each."""

from collections import Counter
from collections.abc import Iterator

from reelkeeper.model import PlannedRule
from reelkeeper.model.document import Table
from reelkeeper.model.money import MICRO
from reelkeeper.operations.lifecycle.plans import SavedPlan, grace_of, refusal, remarks
from reelkeeper.rules.billing.pricing import storage_microusd_per_month
from reelkeeper.rules.core.wording import (
    EXPECTED_SAVING,
    LEAST,
    LEFT_BY_COUNT,
    UNKNOWN_KEEPS,
    claimed,
    dollars,
    in_words,
    left_by_share,
    many,
    size,
)
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import less_stored
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import reading
from reelkeeper.store.lifecycle import plan_progress
from reelkeeper.store.lifecycle.plan_results import NOT_DONE, PlanItem
from reelkeeper.store.lifecycle.plan_writer import LEFT
from reelkeeper.store.lifecycle.plans import LIMITS

_CENT = MICRO // 100  # micro-dollars; most items save thousandths of one, which tell a reader nothing
_DOLLARS = {">$ a month", ">$ net"}  # columns that are left out where no item reaches a cent
_MAX_REASON = 200  # characters of a reason in a table; `--json` has the whole text
_SAY_WHY = {"refused", "skipped", "failed"}  # for others the plan's reason suffices


def title(saved: SavedPlan) -> str:
    """Name a plan, with its flow and the time that it judges by."""
    return f"Plan {saved.plan.id} of {saved.plan.flow}, as of {saved.plan.as_of:%Y-%m-%d %H:%M} UTC"


def document(engine: Engine, saved: SavedPlan, most: int, *, names_users: bool = False) -> Iterator[str | Table]:
    """Write a plan out, with at most `most` of its items; whose they are, only where an erasure reaches it."""
    plan, is_done = saved.plan, any(item.outcome != NOT_DONE for item in saved.done)
    live = f"{many(plan.population.objects, 'live video')}, {size(plan.population.size_bytes)}"
    yield f"{title(saved)}: {live}."
    yield from _items(saved, most, done=is_done, names_users=names_users)
    if kept := sorted(plan.kept.items(), key=lambda item: (-item[1], item[0])):
        yield "Kept: " + ", ".join(f"{count:,} {in_words(rule)}" for rule, count in kept) + "."
    if LEFT in plan.kept:
        yield LEFT_BY_COUNT if plan.flow == "purge_retired" else _left_by_share(engine, plan.id)
    if not is_done and any(rule.startswith("unknown_") for rule in plan.kept):
        yield UNKNOWN_KEEPS
    if saved.items:
        yield _done(engine, saved) if is_done else _to_do(saved.planned)
    yield from map(claimed, plan.claimed)
    if saved.state == "under way":
        yield f"Run {saved.run_id} is carrying it out."
    elif saved.state == "stopped":
        next_run = f"The next run of {plan.flow} makes a new plan, and continues."
        yield f"Run {saved.run_id} ended before all was done. {next_run}"
    if not is_done:
        yield from remarks(engine, plan)
        yield from map(_of_segment, (rule for rule in saved.planned if rule.segment))
        if plan.compress.objects:
            yield EXPECTED_SAVING
        if why := refusal(engine, plan.id):
            yield f"With --apply, the guard would refuse: {why}"


def _items(saved: SavedPlan, most: int, *, done: bool, names_users: bool) -> Iterator[str | Table]:
    if not saved.items:
        yield "The plan has nothing to do."
        return
    shown = saved.items[:most]
    amounts = [abs(amount or 0) for item in shown for amount in (item.saving_microusd, item.net_microusd)]
    hidden = (_DOLLARS if max(amounts, default=0) < _CENT else set()) | (set() if names_users else {"user"})
    rows = [{name: cell for name, cell in _row(item, done=done).items() if name not in hidden} for item in shown]
    if rows:
        yield Table([*rows[0]], [[*row.values()] for row in rows])
    count = sum(rule.objects for rule in saved.planned)
    if count > most:
        yield f"... and {count - most:,} more: reelkeeper plan --show {saved.plan.id} --limit {count}"


def _left_by_share(engine: Engine, plan_id: str) -> str:
    with reading(engine) as session:
        limits = BlastRadius(**plan_progress.undertaking(session, plan_id).terms.get(LIMITS, {}))
    return left_by_share(limits.max_user_percent, limits.always_allowed)


def _of_segment(rule: PlannedRule) -> str:
    saving = _saving(rule.saving_microusd, rule.size_bytes)
    return (
        f"Of them by {rule.title}: {rule.objects:,} to {rule.action}, {size(rule.size_bytes)}, {saving or '-'} a month."
    )


def by_rule(saved: SavedPlan) -> Table:
    """Tabulate what a plan has for each rule."""
    rows = [
        [
            rule.action,
            rule.title,
            rule.objects,
            size(rule.size_bytes),
            *(_saving(amount, rule.size_bytes) for amount in (rule.saving_microusd, rule.net_microusd)),
        ]
        for rule in saved.planned
    ]
    return Table(("action", "rule", ">items", ">bytes", ">$ a month", ">$ net"), rows)


def _row(item: PlanItem, *, done: bool) -> dict[str, object]:
    row: dict[str, object] = {
        "!video": item.name,
        "user": item.user_id,
        "action": item.action,
        ">bytes": size(item.size_bytes),
    }
    if item.outcome == "compressed" and item.after_bytes is not None:
        saved = item.size_bytes - item.after_bytes
        row |= {">$ a month": dollars(storage_microusd_per_month(saved))}
        return row | {"became": f"compressed to {size(item.after_bytes)}", "why": f"{saved / item.size_bytes:.0%} less"}
    row |= {">$ a month": _saving(item.saving_microusd, item.size_bytes)}
    if not done:
        return row | {">$ net": _saving(item.net_microusd, item.size_bytes), "why": item.reason}
    why = (item.outcome_reason if item.outcome in _SAY_WHY else None) or item.reason
    short = why if len(why) <= _MAX_REASON else f"{why[:_MAX_REASON]} ..."
    return row | {"became": item.outcome or "not done", "why": short}


def _saving(microusd: int | None, size_bytes: int) -> str | None:
    """Format what an item saves, a month or in all; that of a few kilobytes is rounded to 0, but is not nothing."""
    if microusd is None:
        return None
    return LEAST if microusd == 0 and size_bytes else dollars(microusd)


def _to_do(planned: list[PlannedRule]) -> str:
    counts, size_bytes = Counter[str](), sum(rule.size_bytes for rule in planned)
    for rule in planned:
        counts[rule.action] += rule.objects
    doing = ", ".join(f"{count:,} to {action}" for action, count in sorted(counts.items()))
    months, nets = [rule.saving_microusd for rule in planned], [rule.net_microusd for rule in planned]
    saved = None if None in months else sum(filter(None, months))
    net = "" if None in nets else f", {_saving(sum(filter(None, nets)), size_bytes)} net"
    less = _saving(saved, size_bytes) or "-"
    return f"In total: {doing}; files of {size(size_bytes)} before, {less} a month less{net}."


def _done(engine: Engine, saved: SavedPlan) -> str:
    done = ", ".join(f"{outcome.objects:,} {outcome.outcome.replace('_', ' ')}" for outcome in saved.done)
    less = less_stored(saved.done, grace_of(engine, saved.plan))
    return f"In total: {done}; {less}" if less else f"In total: {done}."
