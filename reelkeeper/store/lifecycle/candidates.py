"""Find the live videos that a plan must judge one by one, and count those that a rule keeps whatever else they are.

The questions come from the rules (`rules.lifecycle.regions`). One statement asks them of all videos, reads views only
where an answer depends on them, and groups the videos: by the rule that keeps them, or each alone, to be judged.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import Counts, Fork, KeptTogether, Video, VideoState
from reelkeeper.store.tables import blobs, daily_views, keeps, notices, users, videos
from reelkeeper.store.videos.videos import held, kept, reader, recent_views, views_known_since

_BATCH = 2_000
Divide = Callable[[datetime], Fork | str | None]
_Properties = Mapping[str, sa.ColumnElement[Any] | None]


def candidates(
    session: Session, as_of: datetime, divide: Divide, kept_together: list[KeptTogether], *, classified: bool
) -> Iterator[Video]:
    """Stream the live videos that `divide` leaves to be judged, in flat memory; add the others to `kept_together`.

    `divide` is called with the moment since which views are known. Read it inside `engine.reading`.
    """
    read, tree = reader(session, as_of, classified=classified), divide(views_known_since(session, as_of))
    if tree is None:
        yield from read(None)
        return
    rules: list[str] = []
    place = _place(tree, _properties(session, as_of), as_of, rules).label("place")
    placed = (
        sa.select(place, blobs.c.size_bytes, videos.c.id)
        .select_from(videos)
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .join(users, users.c.id == videos.c.user_id)
        .where(videos.c.state == VideoState.LIVE)
        .offset(0)  # apart from the grouping: SQLite would sort all columns, and ask the questions again for each group
        .subquery()
    ).c
    grouped = session.execute(
        sa.select(placed.place, sa.func.count(), sa.func.sum(placed.size_bytes), sa.func.max(placed.id))
        .group_by(placed.place)
        .order_by(placed.place),
        execution_options={"yield_per": _BATCH},
    )
    for batch in grouped.partitions():
        kept_together += [
            KeptTogether(rules[-at - 1], Counts(count, int(size))) for at, count, size, _ in batch if at < 0
        ]
        if chosen := [video_id for at, _, _, video_id in batch if at >= 0]:
            yield from read(chosen)


def _place(
    tree: Fork | str | None, properties: _Properties, as_of: datetime, rules: list[str]
) -> sa.ColumnElement[int]:
    """Build a video's group as a number: below 0, that of a rule in `rules`; else its blob's, to be judged alone."""
    if tree is None:
        return blobs.c.id
    if isinstance(tree, str):
        if tree not in rules:
            rules.append(tree)
        return sa.literal_column(str(-rules.index(tree) - 1), sa.BigInteger)
    if tree.property not in properties:  # views, read once for all questions about them
        counted = sa.func.coalesce(sa.func.sum(daily_views.c.views), 0)
        return recent_views(as_of, _place(tree, {**properties, "views": counted}, as_of, rules))
    asked = properties[tree.property]
    if asked is None:  # of no video
        return _place(tree.otherwise, properties, as_of, rules)
    return sa.case(
        *((_holds(asked, answer), _place(then, properties, as_of, rules)) for answer, then in tree.answers),
        else_=_place(tree.otherwise, properties, as_of, rules),
    )


def _holds(asked: sa.ColumnElement[Any], answer: datetime | int | str | None) -> sa.ColumnElement[bool]:
    if answer is True:
        return asked
    if answer is None:
        return asked.is_(None)
    return asked == answer if isinstance(answer, str) else asked < answer


def _properties(session: Session, as_of: datetime) -> _Properties:
    in_force = sa.select(notices.c.video_id).where(notices.c.ended_at.is_(None))

    def among(*chosen: tuple[sa.Column[str], sa.Select[Any]]) -> sa.ColumnElement[bool] | None:
        if any(session.execute(ids.limit(1)).first() for _, ids in chosen):
            return sa.or_(*(column.in_(ids) for column, ids in chosen))
        return None  # it is asked of a million videos

    return {
        "dated": _dated(session),
        "created_at": videos.c.created_at,
        "tier": users.c.tier,
        "held": among((videos.c.id, held("video", as_of)), (videos.c.user_id, held("user", as_of))),
        "kept": among((videos.c.id, kept(as_of).with_only_columns(keeps.c.video_id))),
        "noticed": among((videos.c.id, in_force)),
        "compressed": blobs.c.recipe.is_not(None),
        "is_ours": blobs.c.is_ours,
        "codec": blobs.c.codec,
        "refused_recipe": videos.c.refused_recipe,
        "model": videos.c.model,
        "tag": videos.c.tag,
        "size_bytes": blobs.c.size_bytes,
    }


def _dated(session: Session) -> sa.ColumnElement[bool]:
    """Build the condition that a video's creation time is known, and compares in SQL as it does once it is read.

    SQLite accepts any text as a time, and compares it as text.
    """
    if session.get_bind().dialect.name != "sqlite":
        return videos.c.created_at.is_not(None)
    text = sa.type_coerce(videos.c.created_at, sa.String)
    is_time = sa.and_(text >= "0001", sa.func.datetime(text) == sa.func.substr(text, 1, 19))
    # guard plans.dated: a text that is no time is compared as one, and a video of unknown age is counted as expired
    return sa.and_(is_time, text.op("GLOB")("*." + "[0-9]" * 6))
