"""A saved plan as a person reads it: what, why, bytes and dollars; what was kept, and what became of each item."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from reelkeeper.cli.screen import dollars, say, size, table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from reelkeeper.store.videos.video_pages import PlanItem

_SHOWN = 20
_LONGEST = 200  # characters of a reason in a table; `--json` has it whole
_SAY_WHY = {"refused", "skipped", "failed"}  # otherwise the plan's own reason says it


def load(engine: "Engine", plan_id: str) -> dict[str, Any]:
    """Read a plan for `--json`: its summary, its items and their outcomes. Raises NotFound."""
    from reelkeeper.store.core.engine import reading
    from reelkeeper.store.lifecycle.plans import load_summary
    from reelkeeper.store.videos.video_pages import plan_items

    with reading(engine) as session:
        return {"plan": load_summary(session, plan_id), "items": plan_items(session, plan_id)}


def show(engine: "Engine", plan_id: str, *, most: int = _SHOWN) -> None:
    """Print a plan, at most `most` items of it. Raises NotFound."""
    from reelkeeper.rules.core.wording import CONTRACT_NOT_TRIED, EXPECTED_SAVING

    loaded = load(engine, plan_id)
    summary, items = loaded["plan"], loaded["items"]
    population = summary.population
    live = f"{population.objects:,} live videos, {size(population.size_bytes)}"
    say(f"Plan {summary.id} of {summary.flow}, as of {summary.as_of:%Y-%m-%d %H:%M} UTC: {live}.")
    if items:
        done = any(item.outcome for item in items)
        headings = ("!video", "action", ">bytes", ">$ a month", *(("became", "why") if done else ("why",)))
        table(headings, [_row(item, done=done) for item in items[:most]])
        if len(items) > most:
            say(f"... and {len(items) - most:,} more: reelkeeper plan --show {plan_id} --limit {len(items)}")
    else:
        say("Nothing is to be done.")
    if summary.kept:
        kept = sorted(summary.kept.items(), key=lambda one: (-one[1], one[0]))
        if "contract_not_tried" in summary.kept:
            say(CONTRACT_NOT_TRIED)
        say("Kept: " + ", ".join(f"{count:,} {rule.replace('_', ' ')}" for rule, count in kept) + ".")
    if items:
        say(_total(items))
    if any(item.action == "compress" and not item.outcome for item in items):
        say(EXPECTED_SAVING)


def _row(item: "PlanItem", *, done: bool) -> list[object]:
    from reelkeeper.rules.billing.pricing import storage_microusd_per_month

    first: list[object] = [item.video_id, item.action, size(item.size_bytes)]
    if item.outcome == "compressed" and item.after_bytes is not None:
        saved = item.size_bytes - item.after_bytes
        became = f"compressed to {size(item.after_bytes)}"
        return [*first, dollars(storage_microusd_per_month(saved)), became, f"{saved / item.size_bytes:.0%} less"]
    first.append(dollars(item.saving_microusd))
    if not done:
        return [*first, item.reason]
    why = (item.outcome_reason if item.outcome in _SAY_WHY else None) or item.reason
    return [*first, item.outcome or "not done", why if len(why) <= _LONGEST else f"{why[:_LONGEST]} ..."]


def _total(items: "list[PlanItem]") -> str:
    from reelkeeper.rules.billing.pricing import storage_microusd_per_month

    if not any(item.outcome for item in items):
        counts = Counter(item.action for item in items)
        doing = ", ".join(f"{count:,} to {action}" for action, count in sorted(counts.items()))
        saved = dollars(sum(item.saving_microusd or 0 for item in items))
        return f"In all: {doing}; {size(sum(item.size_bytes for item in items))}, {saved} a month."
    counts = Counter(item.outcome or "not done" for item in items)
    freed = sum(
        item.size_bytes - (item.after_bytes or 0)
        for item in items
        if item.outcome in {"compressed", "retired", "purged"}
    )
    done = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
    a_month = dollars(storage_microusd_per_month(freed))
    return f"In all: {done}; {size(freed)} less, {a_month} a month at R2's price for stored bytes."
