"""Show `status` as panels, two side by side on a wide terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reelkeeper.cli.screen import dollars, out, size
from reelkeeper.model import VideoState
from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import NANO_IN_MICRO
from reelkeeper.operations.health.status import FlowState, ProviderHealth, Status
from reelkeeper.rules.core.limit_scopes import in_words
from reelkeeper.rules.core.wording import TRIAL, many, span
from reelkeeper.rules.health.performance_report import seconds
from reelkeeper.rules.jobs.breaker import Phase
from reelkeeper.rules.lifecycle.savings import subject

_WIDE = 108  # characters, from which on two panels fit side by side
_SIGNS = {Severity.CRITICAL: ("✗", "red"), Severity.WARNING: ("!", "yellow"), Severity.NOTICE: ("i", "blue")}
_FULL, _NEARLY = 1.0, 0.8  # of a budget
_MAX_LIMITS = 8
_MAX_LEVERS = 5
_MAX_ALERTS = 50


def document(found: Status) -> dict[str, Any]:
    """Return the status for scripts: the snapshot, and its summary."""
    status, money, budget = asdict(found), asdict(found.money), found.money.budget
    money |= {"daily_budget_usd": budget.daily_usd, "monthly_budget_usd": budget.monthly_usd}
    flows = [asdict(flow) | flow.cadence._asdict() for flow in found.flows]
    stored = {state: {"videos": count, "size_bytes": size_bytes} for state, (count, size_bytes) in found.videos.items()}
    status |= {"overdue": found.overdue, "flows": flows, "videos": stored, "money": money}
    for name, value in (("parts", status), ("budget", money), *(("cadence", flow) for flow in flows)):
        del value[name]
    return status


def show(found: Status) -> None:
    """Print the status as panels."""
    left: list[RenderableType] = [_flows(found), _alerts(found), *_levers(found)]
    right: list[RenderableType] = [_videos(found), _spend(found), _queue(found)]
    out.print(_headline(found))
    if found.on_trial:
        out.print(Text(TRIAL, "yellow"))
    if found.contract and found.parts.stores:
        out.print(Text(f"Nothing is changed at the service's own keys: {found.contract}.", "yellow"))
    if out.width < _WIDE:
        out.print(*left, *right, sep="\n")
        return
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.add_column(ratio=12)
    grid.add_column(ratio=10)
    grid.add_row(Group(*left), Group(*right))
    out.print(grid)


def _headline(found: Status) -> Text:
    parts = [(f"Reelkeeper, {found.as_of:%Y-%m-%d %H:%M} UTC: ", "bold")]
    if found.frozen:
        since = f"{found.frozen.at:%Y-%m-%d %H:%M}"
        parts.append((f"all changes frozen since {since} by {found.frozen.by}: {found.frozen.reason}", "bold red"))
        if not found.frozen.is_moved:
            parts.append(
                (f"; to end that: {'reelkeeper doubts, then ' if found.doubts else ''}reelkeeper thaw", "bold")
            )
        return Text.assemble(*parts)
    if found.behind:
        parts.append((f"nothing is deleted, as {found.behind}: reelkeeper db adopt. ", "bold red"))
    waiting = [flow for flow in found.flows if flow.last_ok_at is None and not flow.is_overdue]
    late = f"{many(len(found.overdue), 'flow')} overdue" if found.overdue else "all flows on time"
    if waiting and not found.overdue:
        late = f"no flow overdue, {len(waiting)} of {many(len(found.flows), 'flow')} not run yet"
    firing = f"{many(len(found.alerts), 'alert')} firing" if found.alerts else "no alert firing"
    parts += [(late, "yellow" if found.overdue else "green"), (", ", "")]
    parts += [(firing, "yellow" if found.alerts else "green")]
    if found.doubts:
        parts.append((f", {many(found.doubts, 'object')} in doubt: reelkeeper doubts", "yellow"))
    return Text.assemble(*parts)


def _flows(found: Status) -> Panel:
    table = _grid("left", "left", "right", "right")
    for flow in found.flows:
        mark, style = ("✓", "green") if not flow.is_overdue else ("✗", "red")
        if flow.last_ok_at is None and not flow.is_overdue:
            mark, style = "○", "dim"  # it may still come
        table.add_row(Text(mark, style), flow.flow, _last(flow, found.as_of), _took(flow))
    return _panel("Flows: last success", table)


def _last(flow: FlowState, as_of: datetime) -> Text:
    ago = "never" if flow.last_ok_at is None else _ago(as_of - flow.last_ok_at)
    if flow.is_overdue:
        return Text(f"{ago}, due every {span(timedelta(seconds=flow.cadence.period_seconds))}", "red")
    return Text(ago, "" if flow.last_ok_at else "dim")


def _ago(time: timedelta) -> str:
    return "just now" if time < timedelta(minutes=1) else f"{span(time)} ago"


def _took(flow: FlowState) -> Text:
    known = flow.run_seconds is not None and not flow.is_overdue
    return Text(f"in {seconds(flow.run_seconds)}" if known else "", "dim")


def _videos(found: Status) -> Panel:
    rows = [(state, f"{count:,}", size(size_bytes)) for state, (count, size_bytes) in _stored(found)]
    for backlog in found.backlog if found.parts.stores else ():
        if backlog.objects and backlog.is_refused:
            rows.append((f"beyond the limits of {backlog.flow}: to {backlog.action}", f"{backlog.objects:,}", ""))
        elif backlog.objects:
            rows.append((f"to {backlog.action}, {backlog.flow}", f"{backlog.objects:,}", size(backlog.size_bytes)))
        if backlog.left_to_next_run:
            rows.append((f"to {backlog.action} later, {backlog.flow}", f"{backlog.left_to_next_run:,}", ""))
    if found.grace.objects:
        when = f"{found.grace.next_at:%m-%d %H:%M}" if found.grace.next_at else "now"
        rows.append((f"waits to be purged, from {when}", f"{found.grace.objects:,}", size(found.grace.size_bytes)))
    if found.parts.stores:
        rows.append(("freed so far", "", size(found.money.freed_bytes)))
    return _panel("Videos", _rows(rows, "left", "right", "right"))


def _stored(found: Status) -> Iterable[tuple[str, tuple[int, int]]]:
    shown = (VideoState.LIVE, VideoState.LOST)
    return [(state, found.videos[state]) for state in shown if state in found.videos] or [("live", (0, 0))]


def _spend(found: Status) -> Panel:
    money, table = found.money, _grid("left", "right", "left", "left")
    is_counted = any(state.last_ok_at for state in found.flows if state.flow == "monitor_costs")
    for name, nanousd, limit in (
        ("today", money.today_nanousd, money.budget.daily_usd),
        ("this month", money.month_nanousd, money.budget.monthly_usd),
    ):
        spent = dollars(nanousd / NANO_IN_MICRO)
        if not nanousd and not is_counted:
            table.add_row(name, "unknown", "", Text("monitor_costs has not run", "dim"))
            continue
        if limit is None:
            table.add_row(name, spent, "", Text("no budget", "dim"))
            continue
        share = Decimal(nanousd) / 10**9 / limit
        table.add_row(name, spent, _bar(float(share)), f"{int(share * 100)}% of ${limit:,f}")
    for use in money.limits[:_MAX_LIMITS]:
        refused = f", {use.refusals} refused" if use.refusals else ""
        of_limit = f"{use.percent}% of {dollars(use.limit_microusd)}{refused}"
        table.add_row(
            f"{in_words(use.scope)}, {use.period}", dollars(use.used_microusd), _bar(use.percent / 100), of_limit
        )
    if found.parts.stores:
        table.add_row("saved so far", dollars(money.saved_nanousd / NANO_IN_MICRO), "", Text("at list price", "dim"))
    if money.searches.searches:
        cpu = f"{money.searches.cpu_seconds:,.0f} CPU s, {dollars(money.searches.cost_microusd)}"
        table.add_row("smaller files, net", dollars(money.searches.net_microusd), "", Text(cpu, "dim"))
    return _panel("Spend", table)


def _bar(share: float) -> ProgressBar:
    style = "red" if share >= _FULL else "yellow" if share >= _NEARLY else "green"
    return ProgressBar(total=1.0, completed=min(share, 1.0), width=12, complete_style=style, finished_style=style)


def _queue(found: Status) -> Panel:
    queue, box, cache = found.queue, found.outbox, found.cache
    oldest = f"the oldest for {span(timedelta(seconds=queue.oldest_wait_seconds))}" if queue.waiting else ""
    at_most = "" if queue.jobs_at_once is None else f"at most {queue.jobs_at_once} at once"
    held_up = f"the oldest for {span(timedelta(seconds=box.oldest_seconds))}" if box.waiting else ""
    messages = ("messages waiting", f"{box.waiting:,}", held_up)
    if not found.parts.makes and not queue.jobs:
        return _panel("Outbox", _rows([messages], "left", "right", "left"))
    rows = [
        ("jobs waiting", f"{queue.waiting:,}", oldest),
        ("jobs running", f"{queue.running:,}", at_most),
        *((f"jobs {state}", f"{queue.jobs[state]:,}", "") for state in ("parked", "dead") if state in queue.jobs),
        messages,
        *((f"provider {health.provider}", "unwell", _tried(health)) for health in found.providers),
        ("cached videos", f"{cache.entries:,}", f"given again {many(cache.hits, 'time')}" if cache.entries else ""),
    ]
    return _panel("Queue and outbox", _rows(rows, "left", "right", "left"))


def _tried(health: ProviderHealth) -> str:
    return "gets a few trial jobs" if health.phase is Phase.TRIAL else f"no job until {health.until:%H:%M:%S}"


def _alerts(found: Status) -> Panel:
    if not found.alerts:
        return _panel("Alerts", Text("none fires", "dim"))
    table = _grid("left", "left")
    for alert in found.alerts[:_MAX_ALERTS]:
        seen = f" (seen by {alert.acknowledged_by})" if alert.acknowledged_by else ""
        table.add_row(Text(*_SIGNS[Severity(alert.severity)]), Text(f"{alert.title}{seen}"))
    if more := found.alerts[_MAX_ALERTS:]:
        table.add_row("", Text(f"and {len(more):,} more", "dim"))
    return _panel("Alerts: reelkeeper alerts", table)


def _levers(found: Status) -> Iterable[Panel]:
    rows = [(dollars(lever.impact_microusd or 0), subject(lever.title)) for lever in found.levers[:_MAX_LEVERS]]
    if rows:
        yield _panel("What would lower the bill, a month: reelkeeper report", _rows(rows, "right", "left"))


def _rows(rows: Iterable[Sequence[str]], *justify: Any) -> Table:  # noqa: ANN401  rich's literals
    table = _grid(*justify)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _grid(*justify: Any) -> Table:  # noqa: ANN401  rich's literals
    table = Table.grid(padding=(0, 1, 0, 0))
    for item in justify:
        table.add_column(justify=item)
    return table


def _panel(title: str, inside: RenderableType) -> Panel:
    return Panel(inside, title=title, title_align="left", border_style="dim", padding=(0, 1))
