"""Find a user's objects that no video's row has: uploads never completed, further files of videos, leftovers."""

from contextlib import suppress
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import key_name, parse_key
from reelkeeper.errors import KeyRefused
from reelkeeper.model.ids import earlier_id, id_of
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import service_files
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import reading
from reelkeeper.store.removals import erasures

_BATCH: Final = 500


class Loose(NamedTuple):
    """An object of a user's without a video's row. `is_down`: by its key, it is of a video that was taken down."""

    key: str
    size_bytes: int
    is_down: bool


def of_user(workspace: Workspace, user_id: str) -> list[Loose]:
    """List the objects of a user's that no video's row has; an erasure deletes them."""
    wanted, found = keys(workspace, user_id), list[Loose]()
    down = service_files.known(workspace, user_id).down
    for start in range(0, len(wanted), _BATCH):
        some = wanted[start : start + _BATCH]
        with reading(workspace.engine) as session:
            standing = erasures.with_videos(session, some)
        for key, item in workspace.bucket.stored([key for key in some if key not in standing]).items():
            if item:
                read = parse_key(workspace.bucket.prefix, key, workspace.layout)
                found.append(Loose(key, item.size_bytes, read is not None and read.video_id in down))
    return sorted(found)


def keys(workspace: Workspace, user_id: str) -> list[str]:
    """List the keys of such objects, of which some may be a video's, or have none: those known, and those listed."""
    bucket = workspace.bucket
    with reading(workspace.engine) as session:
        former = former_ids.of_user(session, user_id)
        known = former_ids.known_users(session, {user_id, *former})
        found = {key for key in erasures.loose_keys(session, user_id) if service_files.is_within(bucket, key)}
    # guard erase.loose_former: uploads are deleted of one whose id the erased user had before
    names = {name for name, owner in known.items() if owner == user_id}
    listed = set[str]()
    for folder in names | {key_name(name) for name in names}:
        with suppress(KeyRefused):  # a name that is invalid in a key
            listed |= {item.key for page in bucket.pages_of_user(folder) for item in page}
    ours = tuple(f"{bucket.prefix}{key_name(name)}/" for name in names)
    for key in listed:
        parsed = parse_key(bucket.prefix, key, workspace.layout)
        if parsed and parsed.generation is not None:
            found |= {key} if key.startswith(ours) else set()
        elif parsed and parsed.user_id:
            found |= {key} if {id_of(parsed.user_id), earlier_id(parsed.user_id)} & names else set()
    return sorted(found)
