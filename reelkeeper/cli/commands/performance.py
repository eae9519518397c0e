"""`performance`: how long jobs waited and took, what they cost, how many succeeded, by model and tier."""

from datetime import timedelta
from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, say, table

Hours = Annotated[float, typer.Option(min=0.25, max=24 * 31, help="Of the jobs that ended in so many hours.")]
ByWindow = Annotated[
    bool, typer.Option("--windows", help="Each quarter of an hour, as monitor_performance recorded it.")
]
Tier = Annotated[str, typer.Option(help="With --windows: of this tier.")]
Model = Annotated[str, typer.Option(help="With --windows: of this model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script, with p50 and p99 too.")]


def performance(
    hours: Hours = 1, windows: ByWindow = False, tier: Tier = "", model: Model = "", as_json: AsJson = False
) -> None:
    """Show how the service does: the jobs that ended lately, by model and tier, and what waits at this moment."""
    if windows:
        _windows(hours, tier, model, as_json=as_json)
    elif tier or model:
        raise typer.BadParameter("--tier and --model are for --windows; without it, all of them are shown")
    else:
        _lately(hours, as_json=as_json)


_HEADINGS = (">ended", ">succeeded", ">wait, mean / p95", ">processing, mean / p95", ">a job costs", ">cache hits")


def _lately(hours: float, *, as_json: bool) -> None:
    from reelkeeper.rules.health.performance import by_group, figures, waiting
    from reelkeeper.rules.health.performance_report import lines, seconds
    from reelkeeper.store.core.engine import now, reading
    from reelkeeper.store.health import performance as read
    from reelkeeper.store.jobs.controls import jobs_at_once

    with store() as engine, reading(engine) as session:
        as_of = now(session)
        ended = read.ended(session, as_of - timedelta(hours=hours), as_of)
        queue, at_once = waiting(read.in_flight(session), as_of), jobs_at_once(session)
    if as_json:
        groups = [{"tier": tier, "model": model, **figures(jobs)} for (tier, model), jobs in by_group(ended).items()]
        emit({"as_of": as_of, "hours": hours, "groups": groups, "queue": queue, "jobs_at_once": at_once})
        return
    table(("!of", *_HEADINGS), lines(ended), title=f"Jobs that ended in the last {hours:g} h")
    limit = "" if at_once is None else f", of {at_once} at once"
    oldest = f", the oldest for {seconds(queue['oldest_wait_seconds'])}" if queue["queued"] else ""
    say(f"{queue['queued']:,.0f} wait{oldest}; {queue['running']:,.0f} run{limit}.")


def _windows(hours: float, tier: str, model: str, *, as_json: bool) -> None:
    from reelkeeper.rules.health.performance_report import line
    from reelkeeper.store.core.engine import now, reading
    from reelkeeper.store.health import performance as read

    with store() as engine, reading(engine) as session:
        found = read.recorded(session, now(session) - timedelta(hours=hours), tier=tier, model=model)
    if as_json:
        emit(found)
    elif found:
        table(("!from", *_HEADINGS), [line(f"{window.start_at:%Y-%m-%d %H:%M}", window.figures) for window in found])
    else:
        say("Nothing is recorded of that time: monitor_performance does so every 15 minutes.")
