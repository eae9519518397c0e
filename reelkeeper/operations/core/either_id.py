"""Act on a user or a video that is named by an id that it had: before a rename, or in a version before 0.2.

The present id is tried first, so nothing is looked up for one that is known.
"""

from collections.abc import Callable
from typing import TypeVar

from reelkeeper.errors import NotFound
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.former_ids import known_user, known_videos

_T = TypeVar("_T")
_User = TypeVar("_User", str, str | None)  # None: any user


def present_user(engine: Engine, user_id: str) -> str:
    """Return the present id of the user who had this one, or else the id as given."""
    with reading(engine) as session:
        return known_user(session, user_id)


def for_user(engine: Engine, user_id: _User, act: Callable[[_User], _T]) -> _T:
    """Return what `act` does for a user; where it raises NotFound, for the user who had this id."""
    try:
        return act(user_id)
    except NotFound:
        if user_id is None:
            raise
        known = present_user(engine, user_id)
        if known == user_id:
            raise
        return act(known)


def for_video(engine: Engine, video_id: str, user_id: str | None, act: Callable[[str, str | None], _T]) -> _T:
    """Return what `act` does for a video and, if given, its user; where it raises NotFound, by their present ids."""
    try:
        return act(video_id, user_id)
    except NotFound:
        with reading(engine) as session:
            known = user_id and known_user(session, user_id)
            made = known_videos(session, [video_id], known).get(video_id, video_id)
        if (made, known) == (video_id, user_id):
            raise
        return act(made, known)
