"""Find users and videos by an id that they had: before a rename, or as versions before 0.2 made it of their name.

`former_ids` names each with the row that it is, or was, the id of. A row that an earlier version made is there under
its own id from the migration on, so that nobody who takes such an id later is mistaken for somebody else.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.ids import HASH, earlier_id
from reelkeeper.store.tables import former_ids, users, videos


def known_users(session: Session, user_ids: Collection[str]) -> dict[str, str]:
    """Return, for each of `user_ids`, the id of that user's row; the same where there is none."""
    made = {user_id: earlier_id(user_id) for user_id in user_ids}
    asked = {*user_ids, *made.values()}
    query = sa.select(former_ids.c.id, former_ids.c.user_id).where(former_ids.c.id.in_(asked))
    rows = {row.id: row.user_id for row in session.execute(query)}
    if not rows:
        return dict(zip(user_ids, user_ids, strict=True))
    standing = set(session.execute(sa.select(users.c.id).where(users.c.id.in_(user_ids))).scalars())
    return {
        # guard ids.own_row: what concerns one user is done to another, who was called so before
        user_id: user_id if user_id in standing else rows.get(user_id) or rows.get(made[user_id]) or user_id
        for user_id in user_ids
    }


def known_user(session: Session, user_id: str) -> str:
    """Return the id of a user's row; the same where there is none."""
    return known_users(session, [user_id])[user_id]


def known_videos(session: Session, names: Collection[str], user_id: str | None = None) -> dict[str, str]:
    """Return the ids that an earlier version made of names of videos, by name; names without one are left out.

    The id has a hash of the owner's id, so the rows that begin alike are looked through, for all names at once. A name
    of which two users have a video is left out, unless `user_id` says whose is meant.
    """
    made = {name: made[:-HASH] for name in names if (made := earlier_id(name)) != name}
    if not made:
        return {}
    length = sa.func.length(videos.c.id)
    start = sa.case((length > HASH, sa.func.substr(videos.c.id, 1, length - HASH)), else_="")
    had = sa.outerjoin(videos, former_ids, former_ids.c.user_id == videos.c.user_id)
    alike = sa.select(videos.c.id, videos.c.user_id, former_ids.c.id.label("former"), start.label("start"))
    # The length is compared first, as it takes a fraction of the time.
    lengths = sorted({len(begins) + HASH for begins in made.values()})
    alike = alike.select_from(had).where(length.in_(lengths), start.in_(sorted(set(made.values()))))
    rows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # by start and owner
    for row in session.execute(alike if user_id is None else alike.where(videos.c.user_id == user_id)):
        for owner in {row.user_id, row.former} - {None}:
            rows[row.start][owner].add(row.id)
    found = {}
    for name, begins in made.items():
        same = {it for owner, ids in rows[begins].items() if (it := earlier_id(name, earlier_id(owner))) in ids}
        # guard ids.one_video: what concerns one user's video is done to another's, which has the same name
        if len(same) == 1:
            found[name] = same.pop()
    return found


def earlier_row(session: Session, user_id: str) -> str | None:
    """Return the id of the row that an earlier version made for this user, if it stands beside the user's own."""
    made = earlier_id(user_id)
    both = sa.select(former_ids.c.user_id).where(former_ids.c.id == made, former_ids.c.user_id == made)
    return session.execute(both).scalar() if made != user_id else None


def of_user(session: Session, user_id: str) -> list[str]:
    """List the former ids of a user."""
    return list(session.execute(select_of(user_id)).scalars())


def select_of(user_id: str) -> sa.Select[Any]:
    """Select the former ids of a user, without those that another user has by now."""
    # guard ids.taken_again: erasing a user erases another, who got the id that the first had
    is_free = ~sa.exists().where(users.c.id == former_ids.c.id)
    return sa.select(former_ids.c.id).where(former_ids.c.user_id == user_id, is_free).order_by(former_ids.c.id)


def owner(session: Session, user_id: str) -> str | None:
    """Return the id of the user who has, or had, the id `user_id`, if it is recorded as a former one."""
    return session.execute(sa.select(former_ids.c.user_id).where(former_ids.c.id == user_id)).scalar()
