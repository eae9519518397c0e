"""`credits`: grant, show and refund users' credits; `quota`: show and set the bytes that they may store."""

from dataclasses import asdict
from typing import Annotated, Any
from uuid import uuid4

import typer

from reelkeeper.cli.opening import reading, store
from reelkeeper.cli.screen import emit, respond, say, table
from reelkeeper.cli.words import AsJson, Limit, Reason, byte_count, microusd, who
from reelkeeper.rules.core.wording import exact

group = typer.Typer(help="Grant, show and refund users' credits, and recount them.", no_args_is_help=True)
quota_group = typer.Typer(help="Show and set how many bytes a user may store.", no_args_is_help=True)
_BY_TIER = "tier"
Key = Annotated[
    str | None, typer.Option(help="Idempotency key, unique to the user here and in the API. Default: a new key.")
]


@group.command()
def grant(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="The amount, with up to six decimals.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give a user credits."""
    wanted = microusd(amount)
    from reelkeeper.operations.billing.users import give

    with store() as engine:
        moved, balance = give(engine, user, wanted, _key_or_new(key), by=who(), reason=reason)
    _tell(moved, balance, as_json=as_json)


@group.command()
def refund(
    hold: Annotated[str, typer.Argument(help="The hold whose capture is refunded, in part or in full.")],
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="The amount to refund.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Refund captured credits of a hold, at most what was not refunded yet."""
    wanted = microusd(amount)
    from reelkeeper.operations.billing.users import give

    with store() as engine:
        moved, balance = give(engine, None, wanted, _key_or_new(key), by=who(), reason=reason, hold_id=hold)
    _tell(moved, balance, as_json=as_json)


@group.command()
def show(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show a user's available and held credits, and the last transfers."""
    from reelkeeper.errors import NotFound
    from reelkeeper.store.billing import ledger, quotas
    from reelkeeper.store.core.former_ids import known_user

    with reading() as session:
        user = known_user(session, user)
        if quotas.use_of(session, user) is None:
            raise NotFound(f"no user {user!r} in the catalogue")
        balance, moves = ledger.balance(session, user), ledger.moves(session, user, limit)
    if as_json:
        emit({"user_id": user, **balance._asdict(), "moves": moves})
        return
    say(_in_words(balance))
    if moves:
        rows = [(move.at, move.kind, exact(move.amount_microusd), move.hold_id or "", move.id) for move in moves]
        table(("!at", "kind", ">dollars", "!hold", "!transfer"), rows)


@group.command()
def recount(
    apply: Annotated[bool, typer.Option("--apply", help="Correct balances and bytes from the records.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recount all balances and stored bytes, and show mismatches (exit code 5).

    With --apply, derived figures are corrected from the records, also while changes are frozen.
    """
    from reelkeeper.errors import IntegrityDoubt
    from reelkeeper.operations.health import accounts
    from reelkeeper.rules.billing.accounts import summary

    with store() as engine:
        corrected, left = accounts.correct(engine, author=who()) if apply else ([], accounts.recount(engine))
    if as_json:
        emit({"corrected": corrected, "mismatches": left})
    else:
        _list("corrected", corrected)
        _list("mismatch", left)
        if not left:
            say("Everything adds up.")
    if left:
        raise IntegrityDoubt(summary(left))


def _list(title: str, mismatches: list[Any]) -> None:
    if mismatches:
        table(("!figure", "!subject", ">kept", ">counted"), mismatches, title=title)


def _tell(moved: Any, balance: Any, *, as_json: bool) -> None:  # noqa: ANN401  a Moved and a Balance, not loaded yet
    told = f"{moved.kind} of {exact(moved.amount_microusd)}, transfer {moved.id}. {moved.user_id} has"
    respond(f"{told} {_in_words(balance)}.", moved, as_json=as_json)


def _in_words(balance: Any) -> str:  # noqa: ANN401  a Balance, which is not loaded yet
    available, held, spent = map(exact, balance)
    return f"{available} available, {held} held, {spent} spent"


def _key_or_new(key: str | None) -> str:
    # guard accounts.empty_key: a script whose variable is empty gives the same credits again at each repetition
    return f"by hand {uuid4().hex}" if key is None else key


@quota_group.command("show")
def show_quota(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    incoming: Annotated[
        str, typer.Option(metavar="SIZE", help="Check whether an upload of this size would fit.")
    ] = "0",
    as_json: AsJson = False,
) -> None:
    """Show the bytes that a user stores, has reserved and may store."""
    size_bytes = byte_count(incoming)
    from reelkeeper.operations.billing.quota import check_user_storage_quota
    from reelkeeper.operations.core.either_id import present_user

    with store() as engine:
        user = present_user(engine, user)
        answer = check_user_storage_quota(engine, user, size_bytes)
    text = f"{'Yes' if answer.can_upload else 'No'}: {answer.reason}."
    respond(text, {"user_id": user, **asdict(answer)}, as_json=as_json)


@quota_group.command("set")
def put_quota(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    size: Annotated[
        str, typer.Argument(metavar="SIZE|tier", help="Such as 5GiB or 500MB, or `tier` for the tier's quota.")
    ],
    as_json: AsJson = False,
) -> None:
    """Set a user's quota in bytes, instead of the tier's. Nothing is deleted."""
    size_bytes = None if size == _BY_TIER else byte_count(size)
    from reelkeeper.operations.billing.quota import check_user_storage_quota, set_quota
    from reelkeeper.operations.core.either_id import present_user
    from reelkeeper.store.core.engine import transaction

    with store() as engine:
        user = present_user(engine, user)
        with transaction(engine, "quota.set") as session:
            set_quota(session, user, size_bytes, author=who())
        answer = check_user_storage_quota(engine, user, 0)
    respond(f"{user}: {answer.reason}.", {"user_id": user, **asdict(answer)}, as_json=as_json)
