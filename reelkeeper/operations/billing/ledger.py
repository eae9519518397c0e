"""Grant credits, hold them for a piece of work, capture them when it is done, release them when it is not.

    grant --> [available] --hold--> [held] --capture--> spent, the rest of the hold available again
                  ^                   |                   |
                  '---release, expire-'                   |
                  '----------------------------refund-----'

Each function works in the caller's transaction, so that a job and its hold, or a result and its capture, are committed
together. Each takes an idempotency key: the same request again returns the first answer and moves nothing, so a caller
stores the key before the request and repeats it after a crash. Amounts are integer micro-dollars. A condition in the
UPDATE itself keeps every balance from going below zero. A refusal changes nothing; all raise Frozen while changes are
frozen. An open hold can be captured until `expire` ends it, even when it is overdue.
"""

from collections.abc import Mapping
from typing import Any

from reelkeeper.errors import AmountRefused, HoldClosed, InsufficientCredits, IntegrityDoubt, NotFound, ReelkeeperError
from reelkeeper.model.money import AccountKind, HoldState, Moved, TransferKind
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.rules.billing.credits import OURS, fingerprint, require_amount, require_key, require_lasting
from reelkeeper.rules.core.wording import exact
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import credit_holds, ledger
from reelkeeper.store.billing.credit_holds import Held
from reelkeeper.store.billing.ledger import GRANTS, REVENUE, Request, held, spendable
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.videos.videos import is_user


def grant(session: Session, user_id: str, amount_microusd: int, key: str, *, run_id: str, reason: str = "") -> Moved:
    """Grant a user credits. Raises NotFound for an unknown user."""
    require_amount(amount_microusd, least=1)
    request = _request(TransferKind.GRANT, key, user=user_id, amount=amount_microusd, reason=reason)
    if before := _before(session, request):
        return before
    _require_user(session, user_id)
    ledger.open_accounts(session, user_id)
    amounts = {GRANTS: -amount_microusd, spendable(user_id): amount_microusd}
    ledger.move(session, amounts)
    return _record(session, request, amounts, user_id, None, amount_microusd, run_id, reason=reason)


def hold(
    session: Session,
    user_id: str,
    amount_microusd: int,
    key: str,
    *,
    run_id: str,
    lasting_seconds: int,
    price_book: str | None = None,
) -> Moved:
    """Set credits aside; pass the answer's `hold_id` to `capture` or `release`.

    After `lasting_seconds` the hold is overdue and `expire` releases it. Raises InsufficientCredits with the figures.
    """
    require_amount(amount_microusd, least=1)
    require_lasting(lasting_seconds)
    request = _request(
        TransferKind.HOLD, key, user=user_id, amount=amount_microusd, lasting=lasting_seconds, price_book=price_book
    )
    require_permission(session)
    amounts = {spendable(user_id): -amount_microusd, held(user_id): amount_microusd}
    if not ledger.move(session, amounts, request.key):
        if before := ledger.first(session, request):
            return before
        _require_user(session, user_id)
        raise _too_few(session, user_id, amount_microusd)
    hold_id = credit_holds.begin(
        session, user_id, amount_microusd, lasting_seconds=lasting_seconds, price_book=price_book
    )
    return _record(session, request, amounts, user_id, hold_id, amount_microusd, run_id, price_book=price_book)


def require_credits(session: Session, user_id: str, amount_microusd: int) -> None:
    """Raise InsufficientCredits, as `hold` would at this moment; nothing is held."""
    require_amount(amount_microusd, least=1)
    if ledger.balances(session, [user_id]).get((user_id, AccountKind.USER), 0) < amount_microusd:
        raise _too_few(session, user_id, amount_microusd)


def _too_few(session: Session, user_id: str, amount_microusd: int) -> InsufficientCredits:
    has = ledger.balance(session, user_id)
    held_too, wait = "", ""
    if has.held_microusd:
        held_too = f"; {exact(has.held_microusd)} more are held for jobs in progress"
        wait = ", or wait until those jobs have ended: credits that they do not need are released"
    return InsufficientCredits(
        f"this costs {exact(amount_microusd)}, but user {user_id!r} has only {exact(has.available_microusd)} "
        f"available{held_too}. Nothing was charged. Add credits{wait}"
    )


def capture(session: Session, hold_id: str, amount_microusd: int, key: str, *, run_id: str) -> Moved:
    """Spend at most the held amount; the same transfer returns the rest to the user.

    Raises AmountRefused for more than the hold, HoldClosed for one that is no longer open, NotFound without one.
    """
    require_amount(amount_microusd, least=0)
    request = _request(TransferKind.CAPTURE, key, hold=hold_id, amount=amount_microusd)
    if before := _before(session, request):
        return before
    closed = credit_holds.close(session, hold_id, HoldState.CAPTURED, amount_microusd)
    if closed is None:
        raise _why_not(session, hold_id, f"capture {amount_microusd:,} micro-dollars of")
    return _settle(session, request, closed, amount_microusd, run_id)


def release(session: Session, hold_id: str, key: str, *, run_id: str) -> Moved:
    """Release a whole hold: its work will not be done. Raises HoldClosed when it is no longer open, NotFound."""
    request = _request(TransferKind.RELEASE, key, hold=hold_id)
    if before := _before(session, request):
        return before
    closed = credit_holds.close(session, hold_id, HoldState.RELEASED)
    if closed is None:
        raise _why_not(session, hold_id, "release")
    return _settle(session, request, closed, 0, run_id)


def refund(session: Session, hold_id: str, amount_microusd: int, key: str, *, run_id: str, reason: str = "") -> Moved:
    """Refund part of the captured amount, at most the part that was not refunded yet.

    Raises AmountRefused for more than that, also when nothing was captured; UserErased; NotFound.
    """
    require_amount(amount_microusd, least=1)
    request = _request(TransferKind.REFUND, key, hold=hold_id, amount=amount_microusd, reason=reason)
    if before := _before(session, request):
        return before
    noted = credit_holds.note_refund(session, hold_id, amount_microusd)
    if noted is None:
        raise _why_not(session, hold_id, f"refund {amount_microusd:,} micro-dollars of", AmountRefused)
    # guard ledger.refund_erased: a refund to an erased user is given to nobody, and its reason names the user for ever
    _require_user(session, noted.user_id)
    amounts = {REVENUE: -amount_microusd, spendable(noted.user_id): amount_microusd}
    ledger.move(session, amounts)
    return _record(session, request, amounts, noted.user_id, hold_id, amount_microusd, run_id, reason=reason)


def expire(session: Session, *, run_id: str, limit: int = 200) -> list[Moved]:
    """Release at most `limit` open holds that are overdue by the database's clock, the oldest first."""
    require_permission(session)
    moved = []
    for item in credit_holds.close_overdue(session, limit):
        request = Request(TransferKind.EXPIRE, f"{OURS}{item.id}", fingerprint(kind=TransferKind.EXPIRE, hold=item.id))
        moved.append(_settle(session, request, item, 0, run_id))
    return moved


def deduct_user_credits(
    engine: Engine, user_id: str, cost_microusd: int, key: str, *, run_id: str = "deduct_user_credits"
) -> bool:
    """Take `cost_microusd` from a user: hold and capture in one transaction. False, and nothing taken, if too few.

    The same key again takes nothing more and returns True; after False it may be tried again.
    """
    with transaction(engine, "ledger.deduct") as session:
        try:
            held_now = hold(session, user_id, cost_microusd, f"{key}/hold", run_id=run_id, lasting_seconds=1)
        except InsufficientCredits:
            return False
        capture(session, str(held_now.hold_id), cost_microusd, f"{key}/capture", run_id=run_id)
    return True


def _request(kind: TransferKind, key: str, **parameters: str | int | None) -> Request:
    require_key(key)
    return Request(kind, key, fingerprint(kind=kind, **parameters))


def _before(session: Session, request: Request) -> Moved | None:
    require_permission(session)
    before = ledger.first(session, request)
    if before:
        replays.note()
    return before


def _require_user(session: Session, user_id: str) -> None:
    # guard ledger.known_user: credits are granted to a misspelt user
    if not is_user(session, user_id):
        raise NotFound(f"no user {user_id!r} in the catalogue; no credits were moved")


def _why_not(session: Session, hold_id: str, what: str, closed: type[ReelkeeperError] = HoldClosed) -> ReelkeeperError:
    item = credit_holds.find(session, hold_id)
    if item is None:
        return NotFound(f"no hold {hold_id!r}; no credits were moved")
    figures = f"{item.amount_microusd:,} held, {item.captured_microusd:,} captured, {item.refunded_microusd:,} refunded"
    why = f"cannot {what} hold {hold_id}, which is {item.state}: {figures}; no credits were moved"
    return closed(why) if item.state != HoldState.OPEN else AmountRefused(why)


def _settle(session: Session, request: Request, closed: Held, captured_microusd: int, run_id: str) -> Moved:
    """Empty a hold: the captured amount goes to the house, the rest to the user."""
    rest = closed.amount_microusd - captured_microusd
    parts = {held(closed.user_id): -closed.amount_microusd, REVENUE: captured_microusd, spendable(closed.user_id): rest}
    amounts = {account: amount for account, amount in parts.items() if amount}
    # guard ledger.covered: more is paid out of a hold than the account holds
    if not ledger.move(session, amounts):
        raise IntegrityDoubt(
            f"hold {closed.id} is of {closed.amount_microusd:,} micro-dollars, but fewer are held for user "
            f"{closed.user_id!r}; no credits were moved. To find the mismatch: reelkeeper run settle_accounts"
        )
    amount = captured_microusd if request.kind == TransferKind.CAPTURE else rest
    return _record(session, request, amounts, closed.user_id, closed.id, amount, run_id, held=closed.amount_microusd)


def _record(
    session: Session,
    request: Request,
    amounts: Mapping[str, int],
    user_id: str,
    hold_id: str | None,
    amount_microusd: int,
    run_id: str,
    **detail: Any,  # noqa: ANN401  whatever JSON can say
) -> Moved:
    moved = ledger.record(
        session, request, amounts, user_id=user_id, hold_id=hold_id, amount_microusd=amount_microusd, detail=detail
    )
    figures = {"transfer": moved.id, "hold": hold_id, "microusd": amount_microusd, **detail}
    figures = {name: value for name, value in figures.items() if value not in (None, "")}
    append(session, [Event(f"credits_{request.kind}", run_id, user_id=user_id, detail=figures)])
    return moved
