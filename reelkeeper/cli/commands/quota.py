"""`quota`: how many bytes a user may store, and how many there are."""

from dataclasses import asdict
from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, say
from reelkeeper.cli.words import AsJson, byte_count, who

group = typer.Typer(help="Show and set how many bytes a user may store.", no_args_is_help=True)
_BY_TIER = "tier"


@group.command()
def show(
    user: Annotated[str, typer.Argument(help="Whose.")],
    incoming: Annotated[str, typer.Option(metavar="SIZE", help="Would so many more bytes fit?")] = "0",
    as_json: AsJson = False,
) -> None:
    """Show what a user stores, has reserved and may store."""
    size_bytes = byte_count(incoming)
    from reelkeeper.operations.billing.quota import check_user_storage_quota

    with store() as engine:
        answer = check_user_storage_quota(engine, user, size_bytes)
    if as_json:
        emit({"user_id": user, **asdict(answer)})
    else:
        say(f"{'Yes' if answer.can_upload else 'No'}: {answer.reason}.")


@group.command("set")
def set_(
    user: Annotated[str, typer.Argument(help="Whose.")],
    size: Annotated[str, typer.Argument(metavar="SIZE|tier", help="5GiB, 500MB, or `tier`: what the tier grants.")],
    as_json: AsJson = False,
) -> None:
    """Let a user store so many bytes, whatever the tier grants. Nothing is deleted."""
    size_bytes = None if size == _BY_TIER else byte_count(size)
    from reelkeeper.operations.billing.quota import check_user_storage_quota, set_quota
    from reelkeeper.store.core.engine import transaction

    with store() as engine:
        with transaction(engine, "quota.set") as session:
            set_quota(session, user, size_bytes, author=who())
        answer = check_user_storage_quota(engine, user, 0)
    if as_json:
        emit({"user_id": user, **asdict(answer)})
    else:
        say(f"{user}: {answer.reason}.")
