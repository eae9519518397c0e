"""`tokens`: create, list and revoke the tokens of the HTTP API."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import listing, respond
from reelkeeper.cli.words import AsJson, moment, who
from reelkeeper.model.token_scopes import Scope

group = typer.Typer(no_args_is_help=True, help="Create, list and revoke tokens of the HTTP API.")


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for its user.")],
    scope: Annotated[
        list[str],
        typer.Option(help=f"May be repeated: {', '.join(Scope)}."),
    ],
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it expires; UTC without a time zone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token. It is shown only once; the store keeps its hash."""
    from reelkeeper.operations.core import tokens

    if unknown := sorted(set(scope) - set(Scope)):
        raise typer.BadParameter(f"no scope {', '.join(unknown)}; choose from {', '.join(Scope)}")
    scopes = {Scope(item) for item in scope}
    with store() as engine:
        line, token = tokens.create(engine, name, scopes, author=who(), expires_at=moment(expires))
    text = f"Token {line.id} of {name}, for {', '.join(line.scopes)}. It will not be shown again:\n{token}"
    respond(text, {**line._asdict(), "token": token}, as_json=as_json)


@group.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, newest first."""
    from reelkeeper.operations.core import tokens

    with store() as engine:
        lines = tokens.listed(engine)
    headings = ("!token", "name", "scopes", "!created", "!expires", "!revoked", "!last used")
    cells = (
        "id",
        "name",
        lambda line: ", ".join(line.scopes),
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    )
    listing(lines, headings, cells, as_json=as_json)


@group.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, from `list`.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a token. Running servers refuse it within seconds."""
    from reelkeeper.operations.core import tokens

    with store() as engine:
        tokens.revoke(engine, token_id, author=who())
    text = f"Token {token_id} is revoked; running servers refuse it within seconds."
    respond(text, {"revoked": token_id}, as_json=as_json)
