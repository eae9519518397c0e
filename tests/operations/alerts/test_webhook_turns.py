"""Two who change a webhook at once on PostgreSQL take turns: neither is ended by a deadlock."""

from collections.abc import Callable
from functools import partial

import pytest
import sqlalchemy as sa

from reelkeeper.errors import NotFound
from reelkeeper.model.alerts import EventType, Happened, MessageState
from reelkeeper.operations.alerts import webhooks
from reelkeeper.store.alerts import webhooks as rows
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import outbox
from tests.databases import beside
from tests.doubles.receiver import Receiver

Act = Callable[[sa.Engine, str], object]
ACTS: dict[str, Act] = {
    "rotate": lambda engine, endpoint_id: webhooks.rotate(engine, endpoint_id, author="b"),
    "choose": lambda engine, endpoint_id: webhooks.choose(engine, endpoint_id, [], author="b"),
    "disable": lambda engine, endpoint_id: webhooks.disable(engine, endpoint_id, author="b"),
    "enable": lambda engine, endpoint_id: webhooks.enable(engine, endpoint_id, author="b"),
    "release": lambda engine, endpoint_id: webhooks.release(engine, endpoint_id, author="b", reason="told"),
    "replay": lambda engine, endpoint_id: webhooks.replay(engine, endpoint_id, since=None, author="b"),
}


def put(engine: sa.Engine, *subjects: str, **values: str) -> None:
    with transaction(engine, "test") as session:
        rows.put(session, [Happened(EventType.VIDEO_CHANGED, subject, {"of": subject}) for subject in subjects])
        if values:
            session.execute(sa.update(outbox).values(**values))


@pytest.mark.parametrize("name", ACTS)
def test_an_endpoint_is_changed_while_another_removes_it(postgresql_engine: sa.Engine, name: str) -> None:
    engine = postgresql_engine
    endpoint_id, _ = webhooks.add(engine, "http://127.0.0.1:9/", allow_private=True, author="a")
    put(engine, "v1", state=MessageState.GIVEN_UP)
    with beside(engine, "DELETE FROM webhook_endpoints", partial(ACTS[name], engine, endpoint_id)) as begun:
        webhooks.remove(engine, endpoint_id, author="a")
    with pytest.raises(NotFound):
        begun[0].result()
    with reading(engine) as session:
        assert session.execute(sa.select(outbox.c.state)).scalars().all() == [MessageState.GIVEN_UP]


@pytest.mark.parametrize("act", [webhooks.enable, webhooks.remove])
def test_an_endpoint_that_fails_is_removed_or_enabled_meanwhile(
    postgresql_engine: sa.Engine, act: Callable[..., None]
) -> None:
    engine = postgresql_engine
    with Receiver().serving() as receiver:
        endpoint_id, _ = webhooks.add(engine, receiver.url("/live"), allow_private=True, author="a")
        receiver.always["/live"] = 410
        put(engine, "v1", "v2")
        with beside(engine, "UPDATE outbox", partial(act, engine, endpoint_id, author="b")) as begun:
            webhooks.deliver(engine, allow_private=True, seconds=3)
        begun[0].result()
