"""Users, their ids, tiers and credits as the service sets them, each change with its audit event."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from reelkeeper.errors import InputRefused, KeyReused, LeaseLost, NotFound
from reelkeeper.model.ids import Span, flaw
from reelkeeper.model.money import Balance, Moved, TransferKind
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.billing.credits import own_key, require_key
from reelkeeper.rules.jobs.admission import cache_key
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import charges, credit_holds, rename_rows
from reelkeeper.store.billing import ledger as ledger_rows
from reelkeeper.store.billing.charges import MonthSum
from reelkeeper.store.billing.ledger import balance, was_given
from reelkeeper.store.core import deployment, former_ids
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.schema import hold_up_writers
from reelkeeper.store.videos import imports
from reelkeeper.store.videos.imports import Imported
from reelkeeper.store.videos.videos import is_user, set_tier


class Renamed(NamedTuple):
    """The rows that moved or, in a dry run, would move, by table.

    `joined`: the new id had rows before. `in_policies`: limits or budgets in force name the old id, and only that.
    """

    before: str
    after: str
    rows: dict[str, int]
    joined: bool
    in_policies: bool
    is_done: bool


def rename(engine: Engine, before: str, after: str, *, by: str, apply: bool) -> Renamed:
    """Move all rows of user `before` to `after`, in one transaction; keys stay, and are found by the former id.

    Writers wait meanwhile. Repeated, it does nothing. Raises NotFound, InputRefused for an id that cannot be given,
    UserErased, Frozen, and LeaseLost while a run works with either.
    """
    if wrong := flaw(after):
        raise InputRefused(f"{after[:200]!r} is no id: it {wrong}; nothing was changed")
    with transaction(engine, "users.rename") as session:
        if apply:
            # guard rename.meanwhile: a run or a job that begins after the look at them goes on under the former id
            hold_up_writers(session.connection())
        require_permission(session)
        if not is_user(session, before):
            if is_user(session, after) and before in former_ids.of_user(session, after):
                return Renamed(before, after, {}, joined=True, in_policies=False, is_done=True)
            raise NotFound(f"no user {before!r} in the catalogue; nothing was changed")
        owner = former_ids.owner(session, after)
        # guard rename.taken: what one user did under an id that another gets is erased with either
        if after == before or owner not in {None, before, after}:
            raise InputRefused(f"{after!r} is, or was, the id of user {owner or after!r}; nothing was changed")
        joined, rows = is_user(session, after), rename_rows.count(session, before)
        in_policies = json.dumps(f"user:{before}", ensure_ascii=False) in in_force(session).policies.model_dump_json()
        if why := rename_rows.why_not(session, before, after):
            raise LeaseLost(f"{why}, so user {before!r} was not renamed. Try again when it has ended")
        if apply:
            rename_rows.move(session, before, after)
            # guard rename.cache: a video that a renamed user waits for, or has, is bought again
            _move_cache_keys(session, before, after)
            append(session, [Event("rename", by, user_id=after, detail={"was": before, **rows})])
    return Renamed(before, after, rows, joined, in_policies, apply)


def _move_cache_keys(session: Session, before: str, after: str) -> None:
    """Move the cache keys of the user's private requests to the new id."""
    keys = {}
    for key, request in rename_rows.requests(session, after):
        with suppress(ValidationError):  # of an earlier version
            canonical = GenerationRequest.model_validate(request).canonical()
            if key == cache_key(canonical, before):
                keys[key] = cache_key(canonical, after)
    rename_rows.move_cache_keys(session, keys)


def put(engine: Engine, user_id: str, tier: str, *, by: str) -> None:
    """Insert a user, or set the tier of an existing one.

    Raises TierRefused for a tier that is not in force; InputRefused for an id that another user had; Frozen.
    """
    with transaction(engine, "users.put") as session:
        require_permission(session)  # its lock keeps policies without this tier from being applied meanwhile
        in_force(session).policies.tiers.require_known(tier)
        owner = former_ids.owner(session, user_id)
        # guard ids.given_again: a new user gets the id that another had, and with it that user's videos
        if owner not in {None, user_id} and not is_user(session, user_id):
            raise InputRefused(f"{user_id!r} was the id of user {owner!r}, who is found by it; nothing was changed")
        user_id = former_ids.known_user(session, user_id)
        known, before = set_tier(session, user_id, tier, now(session))
        if not known or before != tier:
            append(session, [Event("tier", by, user_id=user_id, detail={"tier": tier, "was": before})])


def import_users(engine: Engine, lines: Iterable[str]) -> Imported:
    """Add the users of a CSV file, or set their tiers, which must be in force. Raises InputRefused."""
    return imports.import_users(engine, lines, _known_tiers)


def _known_tiers(session: Session) -> tuple[str, ...]:
    return in_force(session).policies.tiers.names


def costs(engine: Engine, user_id: str, first: date, months: int) -> tuple[list[MonthSum], bool, datetime | None]:
    """Sum the costs of a user by month and provider, for `months` months that have charges, beginning with `first`.

    Return also whether there are later ones, and when usage was charged last; None: never. Raises NotFound, UserErased.
    """
    with reading(engine) as session:
        sums, has_more = charges.of_user(session, present(session, user_id), first, months)
        charged = deployment.beats(session).get("monitor_costs")
        return sums, has_more, charged and charged.last_ok_at


def moves(engine: Engine, user_id: str, *, kind: TransferKind | None, span: Span, limit: int) -> list[ledger_rows.Move]:
    """List the newest moves of a user's credits in a span of time, of one kind or of all.

    Raises NotFound, UserErased.
    """
    with reading(engine) as session:
        return ledger_rows.moves(session, present(session, user_id), limit, kind=kind, span=span)


def present(session: Session, user_id: str) -> str:
    """Return the present id of the user who has, or had, this one. Raises NotFound, UserErased."""
    user_id = former_ids.known_user(session, user_id)
    if not is_user(session, user_id):
        raise NotFound(f"no user {user_id!r} in the catalogue")
    return user_id


class ByUser(NamedTuple):
    """What each user cost in a period, by provider too, and the micro-dollars of credits that each paid in it."""

    sums: Sequence[charges.Sum]
    by_provider: Mapping[str, Mapping[str, int]]
    paid_microusd: Mapping[str, int]


def costs_by_user(session: Session, first: date, last: date) -> ByUser:
    """Sum what each user cost and paid from day `first` to `last`, the dearest first; user "" is the residual."""
    begin, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
    paid, found = ledger_rows.paid(session, begin, end), charges.billed_by_provider(session, first, last)
    free = [charges.Sum(user_id, None, 0, 0, False) for user_id in sorted(paid.keys() - found)]
    return ByUser([*charges.sums(session, "user", first, last), *free], found, paid)


def give(
    engine: Engine,
    user_id: str | None,
    amount_microusd: int,
    key: str,
    *,
    by: str,
    reason: str = "",
    hold_id: str | None = None,
) -> tuple[Moved, Balance]:
    """Grant a user credits, or refund the captured hold `hold_id`; `key` is unique to the user, at every front.

    Without a user, it is the one of the hold. Raises NotFound for an unknown user or hold, AmountRefused for more than
    was captured, KeyReused, Frozen.
    """
    require_key(key)
    with transaction(engine, "users.give") as session:
        user_id = former_ids.known_user(session, user_id) if user_id else _holder(session, hold_id)
        given = {name: f"credits/{own_key(name, key)}" for name in (user_id, *former_ids.of_user(session, user_id))}
        # guard accounts.former_keys: a grant that is repeated after its user was renamed is granted again
        named = next((name for name, own in given.items() if was_given(session, user_id, own)), user_id)
        own = given[named]
        # guard accounts.earlier_keys: what the command granted before keys were unique to a user is granted again
        if was_given(session, user_id, key):
            own = key
        try:
            if hold_id is None:
                moved = ledger.grant(session, named, amount_microusd, own, run_id=by, reason=reason)
            else:
                moved = ledger.refund(session, hold_id, amount_microusd, own, run_id=by, reason=reason)
        except KeyReused as error:
            raise KeyReused(str(error).replace(own, key)) from None  # the key that the caller knows
        # guard accounts.own_hold: one user's payment is refunded to another
        if moved.user_id != user_id:
            raise NotFound(f"no hold {hold_id!r} of user {user_id!r}")
        return moved, balance(session, user_id)


def _holder(session: Session, hold_id: str | None) -> str:
    found = credit_holds.find(session, str(hold_id))
    if found is None:
        raise NotFound(f"no hold {hold_id!r}; no credits were moved")
    return found.user_id
