"""Count a scan's verdicts on objects without a row of `blobs`, and list examples."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.adoption import (
    BY_CSV,
    AdoptedExample,
    AdoptionVerdict,
    Crowding,
    LeftOut,
    OneDay,
    PatternCount,
)
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.sync.noted import judged
from reelkeeper.store.sync.scans import DAY_SECONDS
from reelkeeper.store.tables import audit_events, blobs, orphans, videos

_EXAMPLES = 10
_KEYS_OF_A_REASON = 3
_OURS = "keys of Reelkeeper's own"
_NAMED = "videos import --keys"


def crowding(session: Session, scan_id: str) -> Crowding:
    """Count the objects that patterns alone would adopt for the videos and users that have most of them."""
    by_pattern = sa.and_(orphans.c.scan_id == scan_id, orphans.c.pattern > BY_CSV)
    new = sa.select(orphans.c.video_id).where(by_pattern, orphans.c.verdict == AdoptionVerdict.ADOPT)
    files = (
        sa.select(orphans.c.video_id, sa.func.count().label("files"))
        .where(
            by_pattern,
            orphans.c.verdict.in_([AdoptionVerdict.ADOPT, AdoptionVerdict.ANOTHER_FILE]),
            orphans.c.video_id.in_(new),
        )
        .group_by(orphans.c.video_id)
        .subquery()
    )
    objects, groups = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(files.c.files), 0), sa.func.count(files.c.files))
    ).one()
    largest = session.execute(sa.select(files).order_by(files.c.files.desc(), files.c.video_id).limit(1)).first()
    if largest is None:
        return Crowding()
    users = (
        sa.select(orphans.c.user_id, sa.func.count().label("new"))
        .where(by_pattern, orphans.c.verdict == AdoptionVerdict.ADOPT)
        .group_by(orphans.c.user_id)
        .order_by(sa.desc("new"), orphans.c.user_id)
        .limit(1)
    )
    user, of_user = session.execute(users).one()
    known = sa.select(sa.func.count()).select_from(videos)
    return Crowding(
        objects=int(objects),
        further_files=int(objects) - groups,
        files=largest.files,
        video=largest.video_id,
        new_videos=groups,
        videos=groups + session.execute(known).scalar_one(),
        of_user=of_user + session.execute(known.where(videos.c.user_id == user)).scalar_one(),
        user=user,
    )


def by_pattern(session: Session, scan_id: str, patterns: Sequence[str]) -> tuple[PatternCount, ...]:
    """Count what is adopted, by the patterns in their order."""
    rows = session.execute(
        sa.select(orphans.c.pattern, sa.func.count(), sa.func.sum(orphans.c.size_bytes))
        .where(judged(scan_id, AdoptionVerdict.ADOPT))
        .group_by(orphans.c.pattern)
    )
    names: dict[int | None, str] = {**dict(enumerate(patterns)), BY_CSV: _NAMED, None: _OURS}
    found = {place: (objects, int(size_bytes)) for place, objects, size_bytes in rows}
    return tuple(PatternCount(name, *found[place]) for place, name in names.items() if place in found)


def examples(session: Session, scan_id: str) -> tuple[AdoptedExample, ...]:
    """List ten objects that are adopted, some of each pattern."""
    place = sa.func.row_number().over(partition_by=orphans.c.pattern, order_by=orphans.c.key).label("place")
    rows = session.execute(
        sa.select(orphans.c.key, orphans.c.user_id, orphans.c.video_id, place)
        .where(judged(scan_id, AdoptionVerdict.ADOPT))
        .order_by(place, orphans.c.pattern, orphans.c.key)
        .limit(_EXAMPLES)
    )
    return tuple(AdoptedExample(row.key, row.user_id, row.video_id) for row in rows)


def left_out(session: Session, scan_id: str) -> tuple[LeftOut, ...]:
    """Count the objects that are left out by reason, the most frequent first, with the first keys of each."""
    out = sa.and_(
        orphans.c.scan_id == scan_id, orphans.c.verdict.not_in([AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK])
    )
    place = sa.func.row_number().over(partition_by=orphans.c.verdict, order_by=orphans.c.key)
    ranked = sa.select(orphans.c.verdict, orphans.c.key, place.label("place")).where(out).subquery()
    keys: dict[str, list[str]] = {}
    for row in session.execute(
        sa.select(ranked).where(ranked.c.place <= _KEYS_OF_A_REASON).order_by(ranked.c.verdict, ranked.c.place)
    ):
        keys.setdefault(row.verdict, []).append(row.key)
    counts = session.execute(sa.select(orphans.c.verdict, sa.func.count()).where(out).group_by(orphans.c.verdict)).all()
    ordered = sorted(((objects, verdict) for verdict, objects in counts), key=lambda item: (-item[0], item[1]))
    return tuple(LeftOut(AdoptionVerdict(verdict), objects, tuple(keys[verdict])) for objects, verdict in ordered)


def one_day(session: Session, scan_id: str) -> OneDay | None:
    """Find the day on which most of the adopted objects were stored, among those without an age from CSV or key."""
    day = sa.func.date(orphans.c.last_modified)
    to_adopt = judged(scan_id, AdoptionVerdict.ADOPT)
    return _fullest(
        session,
        sa.select(day, sa.func.count()).where(to_adopt, orphans.c.created_at.is_(None)).group_by(day),
        sa.select(sa.func.count()).select_from(orphans).where(to_adopt),
    )


def one_day_of_catalogue(session: Session) -> OneDay | None:
    """Find the day on which most videos were made, among those whose age is only that of their stored object."""
    day = sa.func.date(videos.c.created_at)
    aged = sa.exists().where(blobs.c.video_id == videos.c.id, blobs.c.stored_at == videos.c.created_at)
    live = videos.c.state == VideoState.LIVE
    return _fullest(
        session,
        sa.select(day, sa.func.count()).where(live, aged).group_by(day),
        sa.select(sa.func.count()).select_from(videos).where(live),
    )


def _fullest(session: Session, by_day: sa.Select[Any], everything: sa.Select[Any]) -> OneDay | None:
    fullest = session.execute(by_day.order_by(sa.func.count().desc(), sa.asc(sa.literal_column("1"))).limit(1)).first()
    if fullest is None:
        return None
    return OneDay(date.fromisoformat(str(fullest[0])), fullest[1], session.execute(everything).scalar_one())


def files_by_pattern(session: Session, scan_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Count files by video that only patterns have found: adopted ones, and further files of a video."""
    rows = session.execute(
        sa.select(orphans.c.verdict, orphans.c.video_id, sa.func.count())
        .where(judged(scan_id, AdoptionVerdict.ADOPT, AdoptionVerdict.ANOTHER_FILE), orphans.c.pattern > BY_CSV)
        .group_by(orphans.c.verdict, orphans.c.video_id)
    ).all()
    adopted, further = (
        {row.video_id: row[2] for row in rows if row.verdict == verdict}
        for verdict in (AdoptionVerdict.ADOPT, AdoptionVerdict.ANOTHER_FILE)
    )
    return adopted, further


def count_stored_between(session: Session, scan_id: str, since: datetime, until: datetime) -> int:
    """Count the objects stored in this period that the scan adopts."""
    stored = orphans.c.last_modified.between(since, until)
    return _count(session, sa.and_(judged(scan_id, AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK), stored))


def taken_back(session: Session, scan_id: str) -> int:
    """Count the lost videos that are taken back."""
    return _count(session, judged(scan_id, AdoptionVerdict.TAKE_BACK))


def _count(session: Session, wanted: sa.ColumnElement[bool]) -> int:
    return int(session.execute(sa.select(sa.func.count()).select_from(orphans).where(wanted)).scalar_one())


def adopted_files(session: Session, runs: str) -> dict[str, int]:
    """Count the files of each video that runs with this id prefix adopted in the last 24 hours, noted ones included."""
    recent = sa.and_(
        audit_events.c.event == "adopt",
        audit_events.c.at > Clock(-DAY_SECONDS),
        audit_events.c.run_id.startswith(runs, autoescape=True),
    )
    adopted = dict.fromkeys(session.execute(sa.select(audit_events.c.video_id).where(recent)).scalars(), 1)
    further = session.execute(
        sa.select(orphans.c.video_id, sa.func.count())
        .where(
            orphans.c.verdict.in_([AdoptionVerdict.ANOTHER_FILE, AdoptionVerdict.REFUSED]),
            orphans.c.pattern > BY_CSV,
            orphans.c.video_id.in_(sa.select(audit_events.c.video_id).where(recent)),
        )
        .group_by(orphans.c.video_id)
    )
    return adopted | {row.video_id: 1 + row[1] for row in further}
