"""Import data that only the service has from CSV: users' tiers, videos' ages, and daily views.

    id,tier,created_at             users   (tier: one of the policies, or empty for unknown)
    id,user_id,created_at,tag      videos  (those that `sync_catalog` has found; tag may be missing)
    video_id,day,views,viewed_at   views   (viewed_at may be missing)

Times are ISO 8601 with a zone. Every line is checked before the transaction ends: one bad line, or two for one user,
one video or one day of a video, and nothing changes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import InputRefused
from reelkeeper.model.ids import earlier_id, identifier, is_made
from reelkeeper.store.core import deployment, former_ids
from reelkeeper.store.core.engine import insert_into, now, transaction
from reelkeeper.store.tables import daily_views, users, videos, view_days
from reelkeeper.store.videos.csv_columns import (
    Columns,
    CsvLine,
    Problem,
    created,
    day,
    moment,
    tag,
    views,
    whole_lines,
)
from reelkeeper.store.videos.videos import owners_of
from reelkeeper.store.videos.views import lock

_BATCH = 2_000
_SHOWN = 10
_ONE_DAY = timedelta(days=1)


_USERS: Columns = {"id": identifier, "tier": lambda text: text or None, "created_at": moment}
_VIDEOS: Columns = {"id": identifier, "user_id": identifier, "created_at": created}
_VIEWS: Columns = {"video_id": identifier, "day": day, "views": views}


class Imported(NamedTuple):
    """The number of lines imported, and of those whose video the catalogue does not have."""

    lines: int
    skipped: int = 0


def import_users(engine: sa.Engine, lines: Iterable[str], known_tiers: Callable[[Any], Collection[str]]) -> Imported:
    """Add users, or set the tier and creation time of existing ones; an empty time keeps the old one.

    `known_tiers` returns the names of the tiers in force, which stay in force until the transaction ends.

    Raises InputRefused, with nothing changed, naming line, column and value of each bad field, also for two lines of
    one user by two of their ids.
    """
    taken: set[int] = set()

    def take(session: Session, batch: Sequence[CsvLine], problems: list[Problem]) -> int:
        known = known_tiers(session)
        # guard tiers.imported: a file puts users in an unknown tier, with no promises and no quota
        unknown = [line for line in batch if line.values["tier"] is not None and line.values["tier"] not in known]
        problem = f"is not one of {', '.join(known)}, and not empty"
        problems += [Problem(line.number, "tier", line.values["tier"], problem) for line in unknown]
        rows = former_ids.known_users(session, [line.values["id"] for line in batch])
        batch = [line._replace(values={**line.values, "id": rows[line.values["id"]]}) for line in batch]
        problems += _named_again(batch, taken)
        insert = insert_into(session, users)
        created_at = sa.func.coalesce(insert.excluded.created_at, users.c.created_at)
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["id"], set_={"tier": insert.excluded.tier, "created_at": created_at}
            ),
            [line.values for line in batch],
        )
        return 0

    return import_lines(engine, "import.users", whole_lines(lines, _USERS, ["id"]), take)


def import_videos(engine: sa.Engine, lines: Iterable[str], *, skip_unknown: bool = False) -> Imported:
    """Set the creation time and tag of videos, which must belong to the user named; an empty field changes nothing.

    Raises InputRefused for a video of another user, for two lines of one video by two of its ids, and for an unknown
    one unless `skip_unknown`.
    """
    taken: set[int] = set()

    def take(session: Session, batch: Sequence[CsvLine], problems: list[Problem]) -> int:
        batch = _as_known(session, batch)
        problems += _named_again(batch, taken)
        owners = owners_of(session, [line.values["id"] for line in batch])
        known = [line for line in batch if line.values["id"] in owners]
        if not skip_unknown:
            problems += [_unknown(line, "id") for line in batch if line.values["id"] not in owners]
        problems += [
            Problem(line.number, "user_id", line.values["user_id"], f"is not its owner {owners[line.values['id']]!r}")
            for line in known
            if line.values["user_id"] != owners[line.values["id"]]
        ]
        set_created(
            session, {line.values["id"]: line.values["created_at"] for line in known if line.values["created_at"]}
        )
        tagged = [{"video": line.values["id"], "new": line.values["tag"]} for line in known if line.values.get("tag")]
        if tagged:
            named = sa.update(videos).where(videos.c.id == sa.bindparam("video")).values(tag=sa.bindparam("new"))
            session.connection().execute(named, tagged)
        return len(batch) - len(known)

    return import_lines(engine, "import.videos", whole_lines(lines, _VIDEOS, ["id"], {"tag": tag}), take)


def import_views(
    engine: sa.Engine, lines: Iterable[str], *, complete: bool = False, skip_unknown: bool = False
) -> Imported:
    """Set how often videos were viewed on a day, in place of earlier figures for it.

    A video counts as last viewed at its `viewed_at`, or else at the end of the day. With `complete`, the days in the
    file are marked as completely recorded. Raises InputRefused, also for a video named twice on a day (a split count
    would be lost), for a day marked complete that is not over, and for complete days of a file without a known video.
    """
    days: set[date] = set()
    is_of_ours = False
    named: dict[tuple[str, date], str] = {}  # by the video and day, the id in the file, of what an earlier version made

    def take(session: Session, batch: Sequence[CsvLine], problems: list[Problem]) -> int:
        nonlocal is_of_ours
        batch = _as_made(session, batch, named, problems)
        owners = owners_of(session, [line.values["video_id"] for line in batch])
        known = [line for line in batch if line.values["video_id"] in owners]
        if not skip_unknown:
            problems += [_unknown(line, "video_id") for line in batch if line.values["video_id"] not in owners]
        days.update(line.values["day"] for line in batch)
        is_of_ours |= bool(known)
        if known and not problems:
            # guard imports.viewed: on PostgreSQL, a view of one of its videos ends it, or is ended by it
            lock(session, {line.values["video_id"]: line.values["video_id"] for line in known})
            insert = insert_into(session, daily_views)
            session.execute(
                insert.on_conflict_do_update(index_elements=["video_id", "day"], set_={"views": insert.excluded.views}),
                [{name: line.values[name] for name in _VIEWS} for line in known],
            )
            _move_last_viewed(session, known)
        return len(batch) - len(known)

    def finish(session: Session, problems: list[Problem]) -> None:
        if complete:
            today = now(session).date()
            problems += [Problem(0, "day", str(item), "has not ended yet") for item in days if item >= today]
            # guard imports.matched: a file with ids of another kind leaves no video a view, and all are retired
            if days and not (is_of_ours or problems):
                problems.append(Problem(0, "video_id", "", "names no video of the catalogue, so no day is complete"))
            set_complete(session, days)

    parsed = whole_lines(lines, _VIEWS, ["video_id", "day"], {"viewed_at": moment})
    return import_lines(engine, "import.views", parsed, take, finish)


def mark_complete(engine: sa.Engine, days: Iterable[date]) -> None:
    """Mark these UTC days as completely recorded: a video without views then had none. Raises InputRefused."""
    wanted = set(days)
    with transaction(engine, "import.days") as session:
        today = now(session).date()
        if early := sorted(item for item in wanted if item >= today):
            raise InputRefused(f"{early[0]} has not ended, so its views cannot be complete; nothing was changed")
        set_complete(session, wanted)


_Take = Callable[[Session, Sequence[CsvLine], list[Problem]], int]
_Finish = Callable[[Session, list[Problem]], None]


def import_lines(
    engine: sa.Engine, name: str, parsed: Iterator[CsvLine | Problem], take: _Take, finish: _Finish | None = None
) -> Imported:
    """Pass valid lines to `take`, in batches, in one transaction. Raises InputRefused if any line is invalid.

    Other changes wait meanwhile, as it works on rows of many videos in the order of its file.
    """
    problems: list[Problem] = []
    taken = skipped = 0
    with transaction(engine, name) as session:
        # guard imports.turns: on PostgreSQL, a plan, a sync, an erasure or another import ends it, or is ended by it
        deployment.lock(session)
        while batch := list(islice(parsed, _BATCH)):
            problems += [line for line in batch if isinstance(line, Problem)]
            good = [line for line in batch if isinstance(line, CsvLine)]
            if good:
                skipped += take(session, good, problems)
            taken += len(good)
        if finish:
            finish(session, problems)
        if problems:
            shown = "; ".join(str(problem) for problem in problems[:_SHOWN])
            more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
            wrong = f"{len(problems):,} {'field is' if len(problems) == 1 else 'fields are'} invalid"
            raise InputRefused(f"nothing of it was taken, because {wrong}: {shown}{more}")
    return Imported(taken - skipped, skipped)


def _as_known(session: Session, batch: Sequence[CsvLine]) -> list[CsvLine]:
    """Put the ids of rows in place of ids that a user or video had in an earlier version."""
    users_of = former_ids.known_users(session, {line.values["user_id"] for line in batch})
    made = [earlier_id(line.values["id"], earlier_id(line.values["user_id"])) for line in batch]
    owners = owners_of(session, [*made, *(line.values["id"] for line in batch)])
    lines = []
    for line, earlier in zip(batch, made, strict=True):
        video_id, user_id = line.values["id"], users_of[line.values["user_id"]]
        is_made = video_id not in owners and owners.get(earlier) == user_id
        lines.append(line._replace(values={**line.values, "id": earlier if is_made else video_id, "user_id": user_id}))
    return lines


def _named_again(batch: Sequence[CsvLine], taken: set[int]) -> Iterator[Problem]:
    """Find second lines of one row, by an id that it had, as none is in two. `taken` are the rows of lines before."""
    for line in batch:
        row = hash(line.values["id"])
        # guard imports.former_id: of two contradictory lines on a renamed user, such as on the tier, the last one wins
        if row in taken:
            yield Problem(line.number, "id", line.values["id"], "is named twice, once by an id that it had")
        taken.add(row)


def _as_made(
    session: Session, batch: Sequence[CsvLine], named: dict[tuple[str, date], str], problems: list[Problem]
) -> list[CsvLine]:
    """Put the ids that an earlier version made in place of names of videos; `named` keeps a count for each day."""
    ids = {line.values["video_id"] for line in batch}
    made = former_ids.known_videos(session, ids - owners_of(session, ids).keys())
    lines = []
    for line in batch:
        given = line.values["video_id"]
        video_id = made.get(given, given)
        # guard imports.either_name: a day's views under one id replace those under the other, and a video is retired
        if is_made(video_id) and named.setdefault((video_id, line.values["day"]), given) != given:
            problems.append(Problem(line.number, "video_id", given, f"is the same video as {video_id!r}, on one day"))
        lines.append(line._replace(values={**line.values, "video_id": video_id}))
    return lines


def _unknown(line: CsvLine, column: str) -> Problem:
    return Problem(
        line.number,
        column,
        line.values[column],
        "is not in the catalogue; run sync_catalog, which takes no empty object, or use --skip-unknown",
    )


def set_created(session: Session, times: Mapping[str, datetime]) -> None:
    """Set the creation times of videos."""
    if times:
        change = sa.update(videos).where(videos.c.id == sa.bindparam("key")).values(created_at=sa.bindparam("at"))
        session.connection().execute(change, [{"key": key, "at": at} for key, at in times.items()])


def _move_last_viewed(session: Session, known: Sequence[CsvLine]) -> None:
    last: dict[str, datetime] = {}
    for line in known:
        if line.values["views"]:
            at = line.values.get("viewed_at") or datetime.combine(line.values["day"] + _ONE_DAY, time(), UTC)
            last[line.values["video_id"]] = max(at, last.get(line.values["video_id"], at))
    if last:
        seen_at = sa.bindparam("at", type_=videos.c.last_viewed_at.type)
        later = sa.or_(videos.c.last_viewed_at.is_(None), videos.c.last_viewed_at < seen_at)
        change = sa.update(videos).where(videos.c.id == sa.bindparam("key"), later).values(last_viewed_at=seen_at)
        session.connection().execute(change, [{"key": key, "at": at} for key, at in sorted(last.items())])


def set_complete(session: Session, days: Iterable[date]) -> None:
    """Mark days as completely recorded; the caller has checked that they are over."""
    rows: list[Mapping[str, date]] = [{"day": item} for item in sorted(days)]
    if rows:
        session.execute(insert_into(session, view_days).on_conflict_do_nothing(), rows)
