"""Note objects without a row, with the parts of their keys, and decide which ones a scan adopts.

Only the notes are written, so a dry run does the same, and predicts the real run.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from reelkeeper.adapters.s3.keys import flaw, has_video_extension, parse_key
from reelkeeper.model import StoredObject
from reelkeeper.model.adoption import BY_CSV, Adoption, AdoptionVerdict
from reelkeeper.model.ids import earlier_id, id_of, unique_id
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.rules.sync.adoption import AdoptionLimits, refusal, together
from reelkeeper.store import Session
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.sync import noted, noted_counts
from reelkeeper.store.sync.noted import Owner
from reelkeeper.store.videos.videos import owners_of

_UNKNOWN = Owner(None, None, None)
_NOTHING_BEFORE: Mapping[str, int] = MappingProxyType({})


def note(workspace: Workspace, scan_id: str, unexplained: Sequence[StoredObject]) -> None:
    """Note a page of objects without a row."""
    with transaction(workspace.engine, "sync.note") as session:
        at = now(session)
        owners = noted.owners(session, [stored.key for stored in unexplained])
        rows = [
            {
                "key": stored.key,
                "size_bytes": stored.size_bytes,
                "etag": stored.etag,
                "last_modified": stored.last_modified,
                "first_seen_at": at,
                "last_seen_at": at,
                "scan_id": scan_id,
                **_read(workspace, stored, owners.get(stored.key, _UNKNOWN)),
            }
            for stored in unexplained
        ]
        _use_ids(session, rows)
        noted.note(session, rows)


def judge(
    workspace: Workspace, scan_id: str, limits: AdoptionLimits, before: Mapping[str, int] = _NOTHING_BEFORE
) -> Adoption:
    """Decide which objects the scan adopts, by which pattern, and which it leaves out and why; `orphans.adopt` acts.

    `before` counts, by video, the files that other scans adopted, which are judged together with this one's.
    """
    for step in noted.STEPS:
        with transaction(workspace.engine, "sync.judge") as session:
            step(session, scan_id)
    with reading(workspace.engine) as session:
        # guard events.crowding: a pattern that does not fit adopts objects that arrive one by one
        refused = refusal(limits, together(noted_counts.crowding(session, scan_id), before))
    # guard adopt.crowding: a pattern that does not fit makes one video of many objects
    if refused:
        with transaction(workspace.engine, "sync.judge") as session:
            noted.refuse(session, scan_id)
    with reading(workspace.engine) as session:
        return Adoption(
            noted_counts.by_pattern(session, scan_id, [pattern.text for pattern in workspace.layout]),
            noted_counts.taken_back(session, scan_id),
            noted_counts.examples(session, scan_id),
            noted_counts.left_out(session, scan_id),
            noted_counts.one_day(session, scan_id),
            refused,
        )


def _read(workspace: Workspace, stored: StoredObject, owner: Owner) -> dict[str, Any]:
    """Parse a key: as ours, by CSV, or by the first pattern that matches. Every row has the same fields."""
    prefix, key = workspace.bucket.prefix, stored.key
    parsed = parse_key(prefix, key, workspace.layout)
    if parsed and parsed.generation is not None and parsed.user_id:
        names = {"user_id": parsed.user_id, "name_id": parsed.video_id, "generation": parsed.generation}
        return _judged(stored, AdoptionVerdict.ADOPT) | names
    named = bool(owner.user_id or owner.video_id)
    if (verdict := _why_not(stored, named=named)) is not None:
        return _judged(stored, verdict)
    user = owner.user_id or (parsed and parsed.user_id)
    if not user:
        unread = AdoptionVerdict.NO_OWNER if parsed or named else AdoptionVerdict.NO_PATTERN
        return _judged(stored, unread)
    stem = key[len(prefix) :].rpartition(".")[0] or key[len(prefix) :]
    name = owner.video_id or (parsed.video_id if parsed else stem)
    made_before = min(parsed.made_before, stored.last_modified) if parsed and parsed.made_before else None
    return _judged(stored, AdoptionVerdict.ADOPT) | {
        "user_id": user,
        "name_id": name,
        "pattern": BY_CSV if named or parsed is None else parsed.pattern,
        "created_at": owner.created_at or made_before,
    }


def _judged(stored: StoredObject, verdict: AdoptionVerdict) -> dict[str, Any]:
    """Return the fields of a note without an owner. An object of 0 bytes is not a video."""
    names = ("user_id", "name_id", "unique_id", "video_id", "generation", "pattern", "created_at")
    # guard adopt.empty: an object of 0 bytes becomes a video
    empty = verdict == AdoptionVerdict.ADOPT and not stored.size_bytes
    return {"verdict": AdoptionVerdict.EMPTY if empty else verdict, **dict.fromkeys(names)}


def _use_ids(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Put ids in place of the names of users and videos: the names, where they are ids.

    A user or video that an earlier version knows by another id keeps that, so that it does not become two.
    """
    named = [row for row in rows if row["user_id"]]
    known = former_ids.known_users(session, {id_of(row["user_id"]) for row in named})
    earlier = {row["key"]: earlier_id(row["name_id"], earlier_id(row["user_id"])) for row in named}
    odd = {earlier[row["key"]] for row in named if earlier[row["key"]] != row["name_id"]}
    owners = owners_of(session, odd) if odd else {}
    for row in named:
        name, made = row["name_id"], earlier[row["key"]]
        user_id = known[id_of(row["user_id"])]
        video_id = made if owners.get(made) == user_id else id_of(name, user_id)
        row |= {
            "user_id": user_id,
            "name_id": video_id,
            "video_id": video_id,
            "unique_id": unique_id(video_id, user_id, name),
        }


def _why_not(stored: StoredObject, *, named: bool) -> AdoptionVerdict | None:
    """Return why neither a pattern nor a CSV can make a video of an object; None if they can."""
    if stored.key.endswith("/") and not stored.size_bytes:
        return AdoptionVerdict.FOLDER
    if flaw(stored.key):
        return AdoptionVerdict.ODD_KEY
    if not named and not has_video_extension(stored.key):
        return AdoptionVerdict.NOT_A_VIDEO
    return None
