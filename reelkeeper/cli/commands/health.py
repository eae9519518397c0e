"""Show health: `status`, `performance`, `doctor`, and the `watchdog` that cron runs outside of Prefect."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, reading, store
from reelkeeper.cli.screen import dollars, emit, out, say, table
from reelkeeper.cli.words import AsJson, microusd, new_run_id, who
from reelkeeper.errors import Frozen, Misconfigured, ReelkeeperError, Silence, SinkError

if TYPE_CHECKING:
    from reelkeeper.operations import Engine
    from reelkeeper.operations.health import Finding


def status(
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 if changes are frozen, with 10 if a flow is overdue.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show an overview: flows, backlog, videos, queue, spend, savings, alerts. Nothing is changed.

    The exit code is 0 if there is a store to read, except with --check.
    """
    from reelkeeper.cli import status_view
    from reelkeeper.operations.health.status import gather, why_not_changed

    with store(may_make=False) as engine:
        found = replace(gather(engine), contract=why_not_changed(engine, configured()))
    if as_json:
        emit(status_view.document(found))
    else:
        status_view.show(found)
    if not check:
        return
    if found.frozen:
        raise Frozen(f"all changes are frozen: {found.frozen.reason}")
    if found.overdue:
        raise Silence(f"overdue: {', '.join(found.overdue)}")


Hours = Annotated[float, typer.Option(min=0.25, max=24 * 31, help="Show jobs that ended in the last N hours.")]
ByWindow = Annotated[
    bool, typer.Option("--windows", help="Show each quarter of an hour, as recorded by monitor_performance.")
]
Tier = Annotated[str, typer.Option(help="With --windows: only this tier.")]
Model = Annotated[str, typer.Option(help="With --windows: only this model.")]


def performance(
    hours: Hours = 1, windows: ByWindow = False, tier: Tier = "", model: Model = "", as_json: AsJson = False
) -> None:
    """Show the service's performance: recently ended jobs by model and tier, and the jobs waiting now."""
    if windows:
        _windows(hours, tier, model, as_json=as_json)
    elif tier or model:
        raise typer.BadParameter("--tier and --model need --windows; without it, all tiers and models are shown")
    else:
        _lately(hours, as_json=as_json)


_HEADINGS = (">ended", ">succeeded", ">wait, mean / p95", ">processing, mean / p95", ">a job costs", ">cache hits")


def _lately(hours: float, *, as_json: bool) -> None:
    from reelkeeper.operations import now
    from reelkeeper.rules.health.performance import by_group, figures, waiting
    from reelkeeper.rules.health.performance_report import lines, seconds
    from reelkeeper.store.health import performance as read
    from reelkeeper.store.jobs.slots import jobs_at_once

    with reading() as session:
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
    from reelkeeper.operations import now
    from reelkeeper.rules.health.performance_report import line
    from reelkeeper.store.health import performance as read

    with reading() as session:
        found = read.recorded(session, now(session) - timedelta(hours=hours), tier=tier, model=model)
    if as_json:
        emit(found)
    elif found:
        table(("!from", *_HEADINGS), [line(f"{window.start_at:%Y-%m-%d %H:%M}", window.figures) for window in found])
    else:
        say("Nothing is recorded for that time: the flow monitor_performance records every 15 minutes.")


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    claim: Annotated[
        bool, typer.Option("--claim", help="Write this store's identity into a bucket that has none.")
    ] = False,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Test all bucket behaviour that Reelkeeper relies on, in a scratch prefix; takes 1 minute.",
        ),
    ] = False,
    vendor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only try this vendor on your own account, with its cheapest clip of the catalogue; asks first.",
        ),
    ] = None,
    spend: Annotated[
        str | None, typer.Option(metavar="DOLLARS", help="What the trial may cost, at most, at the vendor's prices.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Try a vendor without being asked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every part, and say how to fix each problem. Exit code 0 if nothing fails."""
    from reelkeeper.operations.health import FAIL, Finding
    from reelkeeper.operations.health.doctor import examine

    if (vendor is None) != (spend is None):
        raise typer.BadParameter("--vendor and --spend belong together")
    try:
        settings = configured()
    except Misconfigured as error:
        remedy = "correct the environment, or .env in this folder"
        _report([Finding("settings", FAIL, str(error), remedy)], as_json=as_json)
        return
    if vendor and spend:
        with store(may_make=False) as engine:
            _report(_trial(engine, vendor, microusd(spend), yes=yes), as_json=as_json)
    else:
        _report(examine(settings, claim=claim, contract=contract), as_json=as_json)


def _report(checks: "Iterable[Finding]", *, as_json: bool) -> None:
    """Show each finding as soon as it is there, then the totals. Exits with 1 if something fails."""
    from reelkeeper.operations.health import FAIL, WARN

    findings = list["Finding"]()
    for finding in checks:
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding.part for finding in findings if finding.state == FAIL]
    if as_json:
        emit(findings)
    else:
        warned = ", ".join(finding.part for finding in findings if finding.state == WARN)
        say(f"{len(failed)} of {len(findings)} parts failed." if failed else "Nothing fails.")
        if warned:
            say(f"With a warning: {warned}.")
    if failed:
        raise typer.Exit(1)


def _trial(engine: "Engine", vendor: str, spend_microusd: int, *, yes: bool) -> "Iterable[Finding]":
    """Plan the trial of a vendor, and ask before anything is sent."""
    from reelkeeper.operations.health.vendor_trial import carry_out, plan

    trial = plan(engine, configured(), vendor, spend_microusd)
    if not yes and not trial.sent:
        clips = "two clips, one of them cancelled," if trial.cancels else "one clip"
        cost = dollars(trial.clip.cost_microusd * (2 if trial.cancels else 1))
        asked = f"{vendor} makes {clips} of {trial.clip.vendor_model} on your account, for {cost} at its listed price."
        typer.confirm(f"{asked} Go on?", abort=True, err=True)
    return carry_out(engine, configured(), trial, author=who())


def _show(finding: "Finding") -> None:
    colour = _COLOURS[finding.state]
    out.print(f"[{colour}]{finding.state:<4}[/]  [bold]{finding.part:<14}[/]", end=" ")
    out.print(finding.found, markup=False)
    if finding.remedy:
        out.print(f"{'':<21} -> {finding.remedy}", markup=False)


def watchdog(
    leave_out: Annotated[
        list[str] | None, typer.Option("--except", metavar="FLOW", help="Ignore this flow. May be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Alert if a flow has not succeeded in time, or alerts are not delivered. Exit code 10 if a flow is silent.

    Run it by cron every five minutes. It works without Prefect, and calls REELKEEPER_WATCHDOG_PING_URL if all is well.
    """
    from reelkeeper.adapters.second_sink import ping
    from reelkeeper.cli.flow_help import known_flows
    from reelkeeper.operations.alerts.outbox import configured_sinks
    from reelkeeper.operations.health.watchdog import tell_unreachable, watch
    from reelkeeper.rules.alerts.cadence import CADENCES

    settings = configured()
    sinks = configured_sinks(settings)
    unknown = set(leave_out or []) - set(CADENCES)
    if unknown:
        raise typer.BadParameter(f"no flow {', '.join(sorted(unknown))}; there are {', '.join(sorted(CADENCES))}")
    flows = [flow for flow in known_flows() if flow in CADENCES and flow not in (leave_out or [])]
    marker = settings.state_dir / "watchdog-told"
    try:
        with store(may_make=False) as engine:
            watched = watch(engine, sinks, flows=flows, run_id=new_run_id("watchdog"))
    except Exception as error:
        problem = (
            error if isinstance(error, ReelkeeperError) else ReelkeeperError(f"{type(error).__name__}: see the log")
        )
        with suppress(SinkError):  # the exit code says it, too
            tell_unreachable(sinks.second, problem, marker, at=time.time())
        raise
    marker.unlink(missing_ok=True)
    if as_json:
        emit(watched)
    else:
        for finding in watched.findings:
            say(f"{finding.title}. {finding.text} {finding.suggestion}")
    if watched.findings:
        named = "; ".join(finding.title for finding in watched.findings)
        raise Silence(f"{named}{f'. Sending to the second sink failed: {watched.error}' if watched.error else ''}")
    if settings.watchdog_ping_url:
        ping(settings.watchdog_ping_url.get_secret_value())
    if not as_json:
        say(f"None of {len(flows)} flows is overdue, and no message is stuck.")
