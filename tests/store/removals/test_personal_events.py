"""An audit event is a user's if it names them, one of their videos, or bytes that they were let put: nobody else's."""

import pytest
import sqlalchemy as sa

from reelkeeper.operations.videos import receive
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.removals.erasures import personal_events
from reelkeeper.store.tables import blobs
from tests.faults.world import World
from tests.operations.books import make_user


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: the condition is the same SQL on both."""
    return sqlite_engine


def test_bytes_that_another_user_was_let_put_are_not_theirs(world: World) -> None:
    make_user(world.workspace.engine, "bob")
    announced = receive.Announced("bob", "v9", 100, "0" * 32, "mp4")
    receive.begin(world.workspace, announced, "upload", url_seconds=600)
    with transaction(world.workspace.engine, "test") as session:
        blob_id = session.execute(sa.select(sa.func.max(blobs.c.id))).scalar_one()
        append(session, [Event("retire", "run", blob_id=blob_id, detail={"reason": "by a person"})])
    with reading(world.workspace.engine) as session:
        theirs = {user: {found[2] for found in personal_events(session, user, 0, 99)} for user in ("ann", "bob")}
    assert theirs == {"ann": {False}, "bob": {True}}
