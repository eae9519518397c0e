"""Find a user's files that are the service's own, such as thumbnails: by the key patterns, or beside a video by name.

Reelkeeper has no rows of them but the notes of the last listing, which has all; the user's folder is listed again.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import IMAGE_SUFFIX, key_name, names_beside, parse_key
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import KeyRefused, ObjectMissing, StorageError
from reelkeeper.model.ids import earlier_id, id_of
from reelkeeper.model.key_patterns import KeyParts
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import reading
from reelkeeper.store.removals import erasures
from reelkeeper.store.videos import user_data

_BATCH: Final = 200  # keys; a question about each has up to 31 values


class Belongs(StrEnum):
    """By what a file is a user's. Only those in a folder that a pattern reads as the user's may be deleted."""

    PATTERN = "pattern"
    NAME = "name"  # of a video beside it, or in a key without a folder of the user's
    FOLDER = "folder"  # it is in a folder called as the user, and no pattern reads its key


class ServiceFile(NamedTuple):
    """A file of the service's. `is_down`: it is beside a video that was taken down.

    `upload_id`: it is a multipart upload that was never completed; "" for an object.
    """

    key: str
    size_bytes: int
    by: Belongs
    is_down: bool
    upload_id: str = ""

    @property
    def is_deletable(self) -> bool:
        """Check whether an erasure of the user deletes it, if it is told to delete files."""
        # guard erase.files_of_user: files are deleted of which no pattern says that they are in this user's folder
        return self.by is Belongs.PATTERN


class Loose(NamedTuple):
    """An object that no video's row has, as a further file. `is_down`: by its key, of a video that was taken down."""

    key: str
    size_bytes: int
    is_down: bool


class _User(NamedTuple):
    """What the store knows of a user: ids, folders under the prefix, stems of keys, and names of videos taken down.

    `called` are the folders that patterns have for the ids, with the prefix and a final slash.
    """

    user_id: str
    names: frozenset[str]
    folders: frozenset[str]
    called: tuple[str, ...]
    stems: frozenset[str]
    down: frozenset[str]


def of_user(workspace: Workspace, user_id: str) -> list[ServiceFile]:
    """List the files of the service's that are, or may be, this user's, also where their video is gone."""
    bucket = workspace.bucket
    user = _known(workspace, user_id)
    found, listed = dict[str, int](), set[str]()
    for folder in sorted(user.folders):
        with suppress(KeyRefused):  # a name that is invalid in a key
            pages = bucket.pages_of_folder(folder)
            found |= {item.key: item.size_bytes for page in pages for item in page if _may_be(workspace, item.key)}
            listed.add(f"{bucket.prefix}{folder}/")
    noted, is_listed = dict[str, int](), tuple(listed)
    with reading(workspace.engine) as session:
        loose = {key for key in erasures.loose_keys(session, user_id) if is_within(bucket, key)}  # always deleted
        for key, size_bytes in user_data.other_files(session):
            if not key.startswith(is_listed) and _belongs(workspace, user, key):
                noted[key] = size_bytes
    found |= _stored(workspace, noted)
    return sorted(_theirs(workspace, user, {key: found[key] for key in found.keys() - loose}))


def loose_of_user(workspace: Workspace, user_id: str) -> list[Loose]:
    """List the objects that are read as a user's videos, and that no video's row has; an erasure deletes them."""
    wanted, found = loose_keys(workspace, user_id), list[Loose]()
    down = _known(workspace, user_id).down
    for start in range(0, len(wanted), _BATCH):
        some = wanted[start : start + _BATCH]
        with reading(workspace.engine) as session:
            standing = erasures.with_videos(session, some)
        for key, item in workspace.bucket.stored([key for key in some if key not in standing]).items():
            if item:
                read = parse_key(workspace.bucket.prefix, key, workspace.layout)
                found.append(Loose(key, item.size_bytes, read is not None and read.video_id in down))
    return sorted(found)


def loose_keys(workspace: Workspace, user_id: str) -> list[str]:
    """List the keys of such objects, of which some may be a video's, or have none: those known, and those listed."""
    bucket, user = workspace.bucket, _known(workspace, user_id)
    names = user.names
    with reading(workspace.engine) as session:
        found = {key for key in erasures.loose_keys(session, user_id) if is_within(bucket, key)}
    listed = set[str]()
    for folder in user.folders:
        with suppress(KeyRefused):  # a name that is invalid in a key
            listed |= {item.key for page in bucket.pages_of_folder(folder) for item in page}
    ours = tuple(f"{bucket.prefix}{key_name(name)}/" for name in names)
    for key in listed:
        parsed = parse_key(bucket.prefix, key, workspace.layout)
        if parsed and parsed.generation is not None:
            found |= {key} if key.startswith(ours) else set()
        elif parsed and parsed.user_id:
            found |= {key} if {id_of(parsed.user_id), earlier_id(parsed.user_id)} & names else set()
    return sorted(found - _of_others(workspace, user_id, found))


def _of_others(workspace: Workspace, user_id: str, keys: set[str]) -> set[str]:
    """Select the keys that are another user's, by a video's row or a CSV."""
    asked, others = sorted(keys), set[str]()
    for start in range(0, len(asked), _BATCH):
        stems = {key: set[str]() for key in asked[start : start + _BATCH]}
        with reading(workspace.engine) as session:
            others |= user_data.of_others(session, user_id, stems, even_with_row=True)
    return others


def uploads_of_user(workspace: Workspace, user_id: str) -> list[ServiceFile] | None:
    """List the multipart uploads at the user's keys that were never completed; None: the server does not say."""
    look, user = workspace.bucket.look(), _known(workspace, user_id)
    found = defaultdict[str, list[str]](list)
    try:
        for under in _each_once({*(f"{folder}/" for folder in user.folders), *_scattered(workspace)}):
            for key, upload_id in look.uploads(workspace.bucket.prefix + under):
                found[key].append(upload_id)
        uploads = list[ServiceFile]()
        for file in sorted(_theirs(workspace, user, dict.fromkeys(found, 0), even_with_row=True)):
            for upload_id in found[file.key]:
                with suppress(ObjectMissing):  # ended meanwhile
                    size_bytes = look.parts_bytes(file.key, upload_id)
                    uploads.append(file._replace(size_bytes=size_bytes, upload_id=upload_id))
    except StorageError:
        return None
    return uploads


def is_within(bucket: Bucket, key: str) -> bool:
    """Check that Reelkeeper may touch a key, which the service may have imported."""
    try:
        return not bucket.is_hidden(bucket.check(key))
    except KeyRefused:
        return False


def _known(workspace: Workspace, user_id: str) -> _User:
    with reading(workspace.engine) as session:
        names = {user_id, *former_ids.of_user(session, user_id)}
        rows = user_data.service_keys(session, user_id)
    folders, stems, down = {*names, *map(key_name, names)}, set[str](), set[str]()
    for video_id, key, is_down in rows:
        down |= {video_id} if is_down else set()
        if key is not None:
            stems.add(key.rpartition(".")[0])
            if parts := _read(workspace, key):
                folders |= {parts.user} if parts.user else set()
                down |= {parts.video} if is_down else set()
    before = {place for pattern in workspace.layout if (place := pattern.before_user) is not None}
    called = tuple(f"{workspace.bucket.prefix}{place}{name}/" for place in before for name in names)
    folders = {f"{place}{folder}" for place in {"", *before} for folder in folders}
    return _User(user_id, frozenset(names), frozenset(folders), called, frozenset(stems), frozenset(down))


def _scattered(workspace: Workspace) -> set[str]:
    """List the beginnings of keys of which a pattern has the user elsewhere than in a folder of a known place."""
    patterns = (pattern for pattern in workspace.layout if pattern.before_user is None and pattern.has("user"))
    return {pattern.text.partition("{")[0] for pattern in patterns}


def _each_once(beginnings: set[str]) -> list[str]:
    """Leave out what begins with another of these, which lists the same."""
    return [text for text in sorted(beginnings) if not any(text != one and text.startswith(one) for one in beginnings)]


def _read(workspace: Workspace, key: str) -> KeyParts | None:
    rest = key.removeprefix(workspace.bucket.prefix)
    return next((parts for pattern in workspace.layout if (parts := pattern.read(rest))), None)


def _may_be(workspace: Workspace, key: str) -> bool:
    """Leave out what is read as a video of somebody's: an erasure deletes the user's, whatever it is told of files."""
    video = parse_key(workspace.bucket.prefix, key, workspace.layout)
    is_somebodys = video is not None and (video.generation is not None or video.user_id is not None)
    return not (is_somebodys or workspace.bucket.is_hidden(key))


def _belongs(workspace: Workspace, user: _User, key: str) -> Belongs | None:
    """Say by what a file seems to be this user's, before the store is asked whether it is another's."""
    parts = _read(workspace, key)
    if parts and parts.user and {id_of(parts.user), earlier_id(parts.user)} & user.names:
        folders = key.removeprefix(workspace.bucket.prefix).split("/")[:-1]
        # guard erase.files_folder: where users are only parts of names, an erasure deletes files of one called alike
        return Belongs.PATTERN if parts.user in folders else Belongs.NAME
    if names_beside(key) & user.stems:
        return Belongs.NAME
    return Belongs.FOLDER if key.startswith(user.called) and not (parts and parts.user) else None


def _stored(workspace: Workspace, noted: dict[str, int]) -> dict[str, int]:
    """Leave out what was deleted since the last listing; what has an odd key cannot be asked for."""
    asked = []
    for key in noted:
        with suppress(KeyRefused):
            asked.append(workspace.bucket.check(key))
    gone = {key for key, found in workspace.bucket.stored(asked).items() if found is None}
    return {key: size_bytes for key, size_bytes in noted.items() if key not in gone}


def _theirs(
    workspace: Workspace, user: _User, found: dict[str, int], *, even_with_row: bool = False
) -> Iterator[ServiceFile]:
    by = {key: belongs for key in found if (belongs := _belongs(workspace, user, key))}
    keys = sorted(by)
    for start in range(0, len(keys), _BATCH):
        some = keys[start : start + _BATCH]
        parts = {key: _read(workspace, key) for key in some}
        owners = {key: id_of(read.user) for key, read in parts.items() if read and read.user}
        stems = {key: names_beside(key) for key in some}
        with reading(workspace.engine) as session:
            known = former_ids.known_users(session, set(owners.values()))
            others = user_data.of_others(session, user.user_id, stems, even_with_row=even_with_row)
        for key in some:
            # guard service_files.others: a file of another user's, or beside another's video, is exported or deleted
            if key in others or (by[key] == Belongs.PATTERN and known[owners[key]] != user.user_id):
                continue
            read = parts[key]
            names = {read.video, IMAGE_SUFFIX.sub("", read.video)} if read else set()
            beside = {stem.rpartition("/")[2] for stem in stems[key]}
            yield ServiceFile(key, found[key], by[key], bool((names | beside) & user.down))
