"""`watchdog`: run by cron, outside of Prefect."""

import time
from contextlib import suppress
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, say
from reelkeeper.cli.words import new_run_id
from reelkeeper.errors import ReelkeeperError, Silence, SinkError


def watchdog(
    leave_out: Annotated[
        list[str] | None, typer.Option("--except", metavar="FLOW", help="Do not wait for this flow. May be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Tell people which flow has not succeeded in time, and whether alerts get out. Exit code 10 if one is silent.

    For cron, every five minutes. It needs no Prefect, and calls REELKEEPER_WATCHDOG_PING_URL when all is well.
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
        with store() as engine:
            watched = watch(engine, sinks, flows=flows, run_id=new_run_id("watchdog"))
    except Exception as error:
        told = error if isinstance(error, ReelkeeperError) else ReelkeeperError(f"{type(error).__name__}: see the log")
        with suppress(SinkError):  # the exit code says it, too
            tell_unreachable(sinks.second, told, marker, at=time.time())
        raise
    marker.unlink(missing_ok=True)
    if as_json:
        emit(watched)
    else:
        for finding in watched.findings:
            say(f"{finding.title}. {finding.text} {finding.suggestion}")
    if watched.findings:
        named = "; ".join(finding.title for finding in watched.findings)
        raise Silence(f"{named}{f'. Not told to the second sink: {watched.error}' if watched.error else ''}")
    if settings.watchdog_ping_url:
        ping(settings.watchdog_ping_url.get_secret_value())
    if not as_json:
        say(f"None of {len(flows)} flows is overdue, and no message is stuck.")
