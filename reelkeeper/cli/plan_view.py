"""Show a saved plan: items with reasons, bytes and dollars, the videos kept, and the outcome of each item."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from reelkeeper.cli.screen import dollars, say, size, table
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from reelkeeper.model import Done, PlannedRule, PlanSummary
    from reelkeeper.store.videos.video_pages import PlanItem

_SHOWN = 20
_ALL = 10**9
_MAX_REASON = 200  # characters of a reason in a table; `--json` has the whole text
_SAY_WHY = {"refused", "skipped", "failed"}  # for others the plan's reason suffices


def load(engine: "Engine", plan_id: str, *, most: int = _ALL) -> dict[str, Any]:
    """Read a plan for `--json`: its summary, totals, items and outcomes. Raises NotFound."""
    from reelkeeper.store.core.engine import reading
    from reelkeeper.store.lifecycle import plan_results
    from reelkeeper.store.lifecycle.plans import load_summary
    from reelkeeper.store.videos.video_pages import plan_items

    with reading(engine) as session:
        summary = load_summary(session, plan_id)
        state, run_id = plan_results.shown(session, plan_id)
        return {
            "plan": summary,
            "state": state,
            "run_id": run_id,
            "planned": plan_results.by_rule(session, plan_id),
            "done": plan_results.by_outcome(session, plan_id),
            "items": plan_items(session, plan_id, most),
        }


def show(engine: "Engine", plan_id: str, *, most: int = _SHOWN) -> None:
    """Print a plan, at most `most` items of it. Raises NotFound."""
    from reelkeeper.operations.lifecycle.plans import remarks
    from reelkeeper.rules.core.wording import CONTRACT_NOT_TRIED, EXPECTED_SAVING
    from reelkeeper.store.lifecycle.plan_results import NOT_DONE

    summary, state, run_id, planned, outcomes, items = load(engine, plan_id, most=most).values()
    count, is_done = sum(rule.objects for rule in planned), any(item.outcome != NOT_DONE for item in outcomes)
    population = summary.population
    live = f"{many(population.objects, 'live video')}, {size(population.size_bytes)}"
    say(f"Plan {summary.id} of {summary.flow}, as of {summary.as_of:%Y-%m-%d %H:%M} UTC: {live}.")
    if items:
        headings = ("!video", "action", ">bytes", ">$ a month", *(("became", "why") if is_done else (">$ net", "why")))
        table(headings, [_row(item, done=is_done) for item in items])
        if count > len(items):
            say(f"... and {count - len(items):,} more: reelkeeper plan --show {plan_id} --limit {count}")
    else:
        say("The plan has nothing to do.")
    if summary.kept:
        kept = sorted(summary.kept.items(), key=lambda item: (-item[1], item[0]))
        if "contract_not_tried" in summary.kept:
            say(CONTRACT_NOT_TRIED)
        say("Kept: " + ", ".join(f"{count:,} {rule.replace('_', ' ')}" for rule, count in kept) + ".")
    if items:
        say(_done(outcomes) if is_done else _to_do(planned))
    _say_open(summary, state, run_id)
    for remark in () if is_done else remarks(engine, summary):
        say(remark)
    for rule in planned if not is_done else ():
        if rule.segment:
            saving = _saving(rule.saving_microusd, rule.size_bytes)
            what = f"{rule.objects:,} to {rule.action}, {size(rule.size_bytes)}, {saving} a month"
            say(f"Of them by {rule.title}: {what}.")
    if summary.compress.objects and not is_done:
        say(EXPECTED_SAVING)


def _say_open(summary: "PlanSummary", state: str, run_id: str) -> None:
    """Print the objects that other runs have claimed, and the run that carries the plan out or stopped early."""
    from reelkeeper.rules.core.wording import claimed

    for claim in summary.claimed:
        say(claimed(claim))
    if state == "under way":
        say(f"Run {run_id} is carrying it out.")
    elif state == "stopped":
        say(f"Run {run_id} ended before all was done. The next run of {summary.flow} makes a new plan, and continues.")


def _row(item: "PlanItem", *, done: bool) -> list[object]:
    from reelkeeper.rules.billing.pricing import storage_microusd_per_month

    first: list[object] = [item.video_id, item.action, size(item.size_bytes)]
    if item.outcome == "compressed" and item.after_bytes is not None:
        saved = item.size_bytes - item.after_bytes
        change = f"compressed to {size(item.after_bytes)}"
        return [*first, dollars(storage_microusd_per_month(saved)), change, f"{saved / item.size_bytes:.0%} less"]
    first.append(_saving(item.saving_microusd, item.size_bytes))
    if not done:
        return [*first, dollars(item.net_microusd), item.reason]
    why = (item.outcome_reason if item.outcome in _SAY_WHY else None) or item.reason
    return [*first, item.outcome or "not done", why if len(why) <= _MAX_REASON else f"{why[:_MAX_REASON]} ..."]


def _saving(microusd: int | None, size_bytes: int) -> str:
    """Format a monthly saving; that of a few kilobytes is rounded to 0, but is not nothing."""
    return "under $0.000001" if microusd == 0 and size_bytes else dollars(microusd)


def _to_do(planned: "list[PlannedRule]") -> str:
    counts, size_bytes = Counter[str](), sum(rule.size_bytes for rule in planned)
    for rule in planned:
        counts[rule.action] += rule.objects
    doing = ", ".join(f"{count:,} to {action}" for action, count in sorted(counts.items()))
    months, nets = [rule.saving_microusd for rule in planned], [rule.net_microusd for rule in planned]
    saved = None if None in months else sum(filter(None, months))
    net = "" if None in nets else f", {dollars(sum(filter(None, nets)))} net"
    return f"In total: {doing}; {size(size_bytes)}, {_saving(saved, size_bytes)} a month{net}."


def _done(outcomes: "list[Done]") -> str:
    from reelkeeper.rules.billing.pricing import storage_microusd_per_month
    from reelkeeper.rules.lifecycle.report import SMALLER

    freed = sum(outcome.before_bytes - outcome.after_bytes for outcome in outcomes if outcome.outcome in SMALLER)
    done = ", ".join(f"{outcome.objects:,} {outcome.outcome.replace('_', ' ')}" for outcome in outcomes)
    a_month = dollars(storage_microusd_per_month(freed))
    return f"In total: {done}; {size(freed)} less, {a_month} a month at R2's price for stored bytes."
