"""`webhooks`: manage the service's endpoints that receive events."""

from datetime import datetime
from typing import Annotated, Any

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import listing, respond
from reelkeeper.cli.words import AsJson, moment, not_blank, who
from reelkeeper.rules.core.wording import many

group = typer.Typer(no_args_is_help=True, help="Send events of jobs and videos to the service's servers.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The endpoint's id, from `list`.")]


@group.command()
def add(
    url: Annotated[str, typer.Argument(help="URL to post events to: https, at a public address.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="An event to send, e.g. video.changed; may be repeated. Default: all events."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint. Its secret, which signs each message, is shown only once."""
    from reelkeeper.model.alerts import EventType
    from reelkeeper.operations.alerts import webhooks

    if unknown := sorted(set(event or ()) - set(EventType)):
        raise typer.BadParameter(f"no event {', '.join(unknown)}; choose from {', '.join(EventType)}")
    allow, events = configured().allow_private_addresses, [EventType(item) for item in event or ()]
    with store() as engine:
        endpoint_id, secret = webhooks.add(engine, url, events, allow_private=allow, author=who())
    of = ", ".join(events) or "all events"
    text = f"Webhook {endpoint_id} receives {of}. Its secret will not be shown again:\n{secret}"
    respond(text, {"id": endpoint_id, "secret": secret}, as_json=as_json)


@group.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List the endpoints, with their health and waiting messages."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        lines = webhooks.listed(engine)
    headings = ("!webhook", "url", "events", "!last ok", "!failing since", ">waiting", ">given up", "state")
    cells = (
        "id",
        "url",
        lambda line: ", ".join(line.events) or "all",
        "last_ok_at",
        "failing_since",
        "waiting",
        "given_up",
        _state,
    )
    listing(lines, headings, cells, as_json=as_json)


def _state(line: Any) -> str:  # noqa: ANN401  an endpoint, which is not loaded yet
    return f"disabled: {line.disabled_reason}" if line.disabled_at else line.last_error or "well"


@group.command()
def rotate(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Replace an endpoint's secret; for a day, messages are signed with both the old and the new one."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        secret = webhooks.rotate(engine, endpoint_id, author=who())
    text = f"The new secret of webhook {endpoint_id}; for a day, messages are also signed with the old one:\n{secret}"
    respond(text, {"id": endpoint_id, "secret": secret}, as_json=as_json)


@group.command()
def disable(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Disable an endpoint; events wait for it until it is enabled."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.disable(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is disabled; events wait for it.", {"disabled": endpoint_id}, as_json=as_json)


@group.command()
def enable(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Enable an endpoint; waiting events are sent first, in order."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.enable(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is enabled.", {"enabled": endpoint_id}, as_json=as_json)


@group.command()
def remove(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Remove an endpoint and its waiting events."""
    from reelkeeper.operations.alerts import webhooks

    with store() as engine:
        webhooks.remove(engine, endpoint_id, author=who())
    respond(f"Webhook {endpoint_id} is removed.", {"removed": endpoint_id}, as_json=as_json)


@group.command()
def replay(
    endpoint_id: Id,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Also messages delivered since this time; UTC without a time zone."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the failed messages of an endpoint again. Each message keeps its id."""
    from reelkeeper.operations.alerts import webhooks

    from_: datetime | None = moment(since)
    with store() as engine:
        count = webhooks.replay(engine, endpoint_id, since=from_, author=who())
    respond(
        f"{many(count, 'message')} will be sent to webhook {endpoint_id} again.", {"replayed": count}, as_json=as_json
    )


@group.command()
def release(
    endpoint_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The endpoint's id, from `list`.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Notices of all endpoints.")] = False,
    reason: Annotated[
        str | None,
        typer.Option(callback=not_blank, help="The reason, such as how users were notified; for the audit record."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count undelivered notices as given from now on, because users were notified in another way."""
    from reelkeeper.operations.alerts import webhooks

    if (endpoint_id is None) != everything:
        raise typer.BadParameter("give an endpoint, or --all")
    if not reason:
        raise typer.BadParameter("a release needs --reason")
    with store() as engine:
        count = webhooks.release(engine, endpoint_id, author=who(), reason=reason)
    text = f"Given from now on: {many(count, 'notice')}, whose days begin."
    respond(text, {"released": count}, as_json=as_json)
