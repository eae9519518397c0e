"""Which row of a key is compared with its object."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.sync.scans import boundaries, known_objects, stored_rows
from reelkeeper.store.tables import blobs, users, videos


@pytest.mark.parametrize(
    ("states", "known"),
    [
        (["gone", "gone"], 2),
        (["gone", "live", "gone"], 2),  # the middle one came back where a later upload was deleted
        (["lost", "gone"], 1),
        (["retired", "pending", "gone"], 1),  # a swap in place has not put its bytes yet
        (["pending"], None),
    ],
)
def test_an_object_is_compared_with_the_open_row_of_its_key_or_the_newest_gone_one(
    engine: sa.Engine, states: list[str], known: int | None
) -> None:
    rows = [
        {"id": number, "video_id": "v", "generation": number, "key": "ann/v.mp4", "state": state, "size_bytes": number}
        for number, state in enumerate(states, 1)
    ]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann"))
        session.execute(sa.insert(videos).values(id="v", user_id="ann", state="live", generation=1))
        session.execute(sa.insert(blobs), [row | {"is_ours": False} for row in rows])
    with reading(engine) as session:
        found = {key: (row[0], row[1]) for key, row in known_objects(session, ["ann/v.mp4", "ann/w.mp4"]).items()}
    assert found == ({"ann/v.mp4": (known, states[known - 1])} if known else {})


def test_rows_that_a_listing_should_have_seen_are_those_from_before_it(engine: sa.Engine) -> None:
    began = datetime(2026, 11, 24, tzinfo=UTC)
    states = ["live", "lost", "gone", "pending", "live"]
    with transaction(engine, "test") as session:
        for number, state in enumerate(states, 1):
            stored_at = began + timedelta(hours=1 if number == len(states) else -1)
            row = {"id": number, "key": f"k{number}", "state": state, "stored_at": stored_at, "size_bytes": 1}
            session.execute(sa.insert(blobs).values(row | {"generation": 1, "is_ours": False}))
    with reading(engine) as session:
        keys = [f"k{number}" for number in range(1, 6)]
        assert stored_rows(session, keys, began) == {1: "k1", 2: "k2"}
        assert stored_rows(session, keys[1:], began) == {2: "k2"}


def test_shards_of_a_listing_have_as_many_known_keys_each(engine: sa.Engine) -> None:
    rows = [{"id": n, "key": f"k{n}", "state": "live", "size_bytes": 1, "generation": 1} for n in range(1, 10)]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(blobs), rows)
    with reading(engine) as session:
        found = {shards: boundaries(session, 9, shards) for shards in (1, 2, 3, 10)}
    assert found == {1: [], 2: ["k5"], 3: ["k4", "k7"], 10: []}
