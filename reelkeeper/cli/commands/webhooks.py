"""`webhooks`: which servers of the service are told what happens."""

from datetime import datetime
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, respond, table
from reelkeeper.cli.words import AsJson, moment, who

group = typer.Typer(no_args_is_help=True, help="Tell the service's own servers what happens to jobs and videos.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The endpoint, as `list` shows it.")]


@group.command()
def add(
    url: Annotated[str, typer.Argument(help="Where events are posted: https, at a public address.")],
    event: Annotated[
        list[str] | None, typer.Option(help="May be repeated, e.g. video.changed; all events where none is named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint. Its secret is shown once; each message is signed with it."""
    from reelkeeper.model.alerts import EventType
    from reelkeeper.operations.alerts import webhooks

    if unknown := sorted(set(event or ()) - set(EventType)):
        raise typer.BadParameter(f"no event {', '.join(unknown)}; there are {', '.join(EventType)}")
    allow, events = configured().allow_private_addresses, [EventType(item) for item in event or ()]
    with store() as engine:
        endpoint_id, secret = webhooks.add(engine, url, events, allow_private=allow, author=who())
    of = ", ".join(events) or "all events"
    told = f"Webhook {endpoint_id} is told of {of}. Its secret is not shown again:\n{secret}"
    respond(told, {"id": endpoint_id, "secret": secret}, as_json=as_json)


@group.command("list")
def listing(as_json: AsJson = False) -> None:
    """List the endpoints, how they do, and what waits for them."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        lines = webhooks.listed(engine)
    if as_json:
        emit(lines)
        return
    headings = ("!webhook", "url", "events", "!last ok", "!failing since", ">waiting", ">given up", "state")
    rows = [
        (
            line.id,
            line.url,
            ", ".join(line.events) or "all",
            line.last_ok_at,
            line.failing_since,
            line.waiting,
            line.given_up,
            f"disabled: {line.disabled_reason}" if line.disabled_at else line.last_error or "well",
        )
        for line in lines
    ]
    table(headings, rows)


@group.command()
def rotate(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Replace an endpoint's secret; for a day the old one signs beside the new one."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        secret = webhooks.rotate(engine, endpoint_id, author=who())
    told = f"The new secret of webhook {endpoint_id}; the one before it signs beside it for a day:\n{secret}"
    respond(told, {"id": endpoint_id, "secret": secret}, as_json=as_json)


@group.command()
def disable(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Send an endpoint nothing until it is enabled; what happens meanwhile waits for it."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.disable(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is disabled; events wait for it.", {"disabled": endpoint_id}, as_json=as_json)


@group.command()
def enable(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Send to an endpoint again: first, in order, what has waited for it."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.enable(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is enabled.", {"enabled": endpoint_id}, as_json=as_json)


@group.command()
def remove(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Forget an endpoint, and what waits for it."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.remove(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is gone.", {"removed": endpoint_id}, as_json=as_json)


@group.command()
def replay(
    endpoint_id: Id,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Also messages delivered since then; UTC without a zone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send an endpoint once more what was given up. Each message keeps its id."""
    from reelkeeper.operations.alerts import webhooks

    from_: datetime | None = moment(since)
    with store() as engine:
        count = webhooks.replay(engine, endpoint_id, since=from_, author=who())
    respond(f"{count:,} messages are sent to webhook {endpoint_id} once more.", {"replayed": count}, as_json=as_json)


@group.command()
def release(
    endpoint_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The endpoint, as `list` shows it.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Of all endpoints.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="The reason, such as how users were told; for the audit record.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let notices count as given, from now, that an endpoint has not taken: users were told otherwise."""
    from reelkeeper.operations.alerts import webhooks

    if (endpoint_id is None) != everything:
        raise typer.BadParameter("give an endpoint, or --all")
    if not reason:
        raise typer.BadParameter("a release needs --reason")
    with store() as engine:
        count = webhooks.release(engine, endpoint_id, author=who(), reason=reason)
    told = f"{count:,} notices count as given from now on; their days of notice begin."
    respond(told, {"released": count}, as_json=as_json)
