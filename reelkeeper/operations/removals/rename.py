"""Give a user another id, or join two rows that are one user: all that either has becomes the new id's."""

from typing import NamedTuple

from reelkeeper.errors import InputRefused, LeaseLost, NotFound
from reelkeeper.model.ids import flaw
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.store import Engine
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.removals import rename_rows
from reelkeeper.store.videos import former_ids
from reelkeeper.store.videos.videos import is_user


class Renamed(NamedTuple):
    """The rows that moved or, in a dry run, would move, by table. `joined`: the new id had rows before."""

    before: str
    after: str
    rows: dict[str, int]
    joined: bool
    is_done: bool


def rename(engine: Engine, before: str, after: str, *, by: str, apply: bool) -> Renamed:
    """Move all rows of user `before` to `after`, in one transaction; keys stay, and are found by the former id.

    Repeated, it does nothing. Raises NotFound, InputRefused for an id that cannot be given, UserErased, Frozen, and
    LeaseLost while a run works with either.
    """
    if wrong := flaw(after):
        raise InputRefused(f"{after[:200]!r} is no id: it {wrong}; nothing was changed")
    with transaction(engine, "users.rename") as session:
        require_permission(session)
        if not is_user(session, before):
            if is_user(session, after) and before in former_ids.of_user(session, after):
                return Renamed(before, after, {}, joined=True, is_done=True)
            raise NotFound(f"no user {before!r} in the catalogue; nothing was changed")
        owner = former_ids.owner(session, after)
        # guard rename.taken: what one user did under an id that another gets is erased with either
        if after == before or owner not in {None, before, after}:
            raise InputRefused(f"{after!r} is, or was, the id of user {owner or after!r}; nothing was changed")
        joined, rows = is_user(session, after), rename_rows.count(session, before)
        if why := rename_rows.why_not(session, before, after):
            raise LeaseLost(f"{why}, so user {before!r} was not renamed. Try again when it has ended")
        if apply:
            rename_rows.move(session, before, after)
            append(session, [Event("rename", by, user_id=after, detail={"was": before, **rows})])
    return Renamed(before, after, rows, joined, apply)
