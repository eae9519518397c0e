"""`alerts`: list, acknowledge and snooze alerts, and show the messages that wait to be sent."""

import re
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, reading, store
from reelkeeper.cli.screen import emit, listing, respond, table
from reelkeeper.cli.words import AsJson, Limit, Reason, who
from reelkeeper.errors import PartialFailure

group = typer.Typer(no_args_is_help=True, help="List, acknowledge and snooze alerts, and test the channels.")

Everything = Annotated[bool, typer.Option("--all", help="Include resolved alerts.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The alert's id, from `alerts list`.")]
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_MAX_SNOOZE_SECONDS = 90 * 86_400  # a rule that is silenced for longer is forgotten


@group.command("list")
def list_alerts(everything: Everything = False, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List firing alerts and active snoozes."""
    from reelkeeper.store.alerts import alerts

    with reading() as session:
        lines = alerts.listed(session, everything=everything, limit=limit)
        snoozed = alerts.snoozes_in_force(session)
    if as_json:
        emit({"alerts": lines, "snoozes": snoozed})
        return
    headings = ("!alert", "!state", "!severity", "what", "of", "!since", ">impact per month")
    cells = ("id", "state", "severity", "title", "scope", "first_at", "impact_microusd")
    listing(lines, headings, cells, as_json=False, otherwise="Nothing fires.")
    if snoozed:
        quiet = [(item.id, item.rule, item.scope or "all", item.reason, item.author, item.until) for item in snoozed]
        table(("!snooze", "rule", "of", "reason", "by", "!until"), quiet, title="Kept quiet")


@group.command()
def ack(alert: Id, as_json: AsJson = False) -> None:
    """Acknowledge an alert: a critical one is no longer repeated."""
    from reelkeeper.operations.alerts import alerts

    with store() as engine:
        alerts.acknowledge(engine, alert, author=who())
    respond(f"Alert {alert} is acknowledged.", {"acknowledged": alert}, as_json=as_json)


@group.command()
def why(alert: Id, as_json: AsJson = False) -> None:
    """Show everything known about an alert; for a refused plan, also its contents."""
    from reelkeeper.operations.lifecycle import clicks

    with store() as engine:
        text = clicks.why(engine, alert)
    respond(text, {"alert": alert, "text": text}, as_json=as_json)


@group.command()
def snooze(
    rule: Annotated[str, typer.Argument(help="The rule to silence, e.g. budget or silent_flow.")],
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="Duration, such as 30m, 8h or 7d.")],
    reason: Reason,
    scope: Annotated[str | None, typer.Option(help="Only this scope, e.g. flow:tier_storage.")] = None,
    as_json: AsJson = False,
) -> None:
    """Silence a rule for a while. Alerts that still fire when it ends are sent then."""
    from reelkeeper.operations.alerts import alerts

    seconds = _seconds(duration)
    with store() as engine:
        snooze_id = alerts.snooze(engine, rule, scope=scope, seconds=seconds, author=who(), reason=reason)
        scopes = alerts.open_scopes(engine, rule)
    quiet = [one for one in scopes if scope in (None, one)]
    text = f"{rule} is silenced for {duration}. To end it sooner: reelkeeper alerts unsnooze {snooze_id}"
    if scope and not quiet:
        text += f"\nNo alert of {rule} fires for {scope} now. It fires for: {', '.join(scopes) or 'none'}."
    respond(text, {"snooze": snooze_id, "scopes": quiet}, as_json=as_json)


@group.command()
def unsnooze(
    snooze: Annotated[str, typer.Argument(metavar="ID", help="The snooze's id, from `alerts list`.")],
    as_json: AsJson = False,
) -> None:
    """End a snooze early."""
    from reelkeeper.operations.alerts import alerts

    with store() as engine:
        alerts.end_snooze(engine, snooze)
    respond(f"Snooze {snooze} has ended.", {"unsnoozed": snooze}, as_json=as_json)


@group.command()
def messages(everything: Everything = False, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List the messages that wait to be sent, with their last error; --all includes sent ones."""
    from reelkeeper.store.alerts import outbox

    with reading() as session:
        lines = outbox.listed(session, everything=everything, limit=limit)
    headings = (">message", "!state", "what", ">attempts", "!since", "!next try", "!receipt", "last error")
    cells = ("id", "state", "title", "attempts", "created_at", "due_at", "receipt", "last_error")
    listing(lines, headings, cells, as_json=as_json, otherwise="No message waits.")


@group.command("test")
def send_test(as_json: AsJson = False) -> None:
    """Send a test message to Slack and the second sink. Exit code 6 if one of them fails."""
    from reelkeeper.errors import ReelkeeperError
    from reelkeeper.model.alerts import Message, MessageKind, OutboxMessage
    from reelkeeper.operations.alerts.outbox import configured_sinks

    message = Message(
        kind=MessageKind.NOTE,
        title="A test of Reelkeeper's alerts",
        text=f"Sent by {who()}. Nothing is wrong.",
        footer="reelkeeper alerts test",
    )
    answers, failed = {}, []
    sinks = configured_sinks(configured())
    for sink in dict.fromkeys((sinks.first, sinks.second)):
        try:
            answers[sink.name] = f"accepted: {sink.send(OutboxMessage('test', message))}"
        except ReelkeeperError as error:
            answers[sink.name] = str(error)
            failed.append(f"{sink.name}: {error}")
    if as_json:
        emit(answers)
    else:
        table(("!sink", "answer"), list(answers.items()))
    if failed:
        raise PartialFailure("; ".join(failed))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,4})([mhd])", text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _MAX_SNOOZE_SECONDS:
        raise typer.BadParameter(f"{text!r} is not a duration of at most 90 days; write e.g. 30m, 8h or 7d")
    return seconds
