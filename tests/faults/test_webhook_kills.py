"""SIGKILL anywhere between a change and the record that its service was told, and replies that are lost.

No event is lost, a repetition has the same id, and what is new of a video comes in the order of its changes.
"""

import random
import shutil
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.operations.alerts import webhooks
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import leases, outbox, users, videos, webhook_endpoints
from tests.children import FORKED
from tests.doubles.receiver import LOST, Receiver
from tests.faults import telling
from tests.faults.conftest import wait_for_end
from tests.faults.world import LONG_AGO

ANSWERS: list[int | str] = [200, 200, 200, LOST, 500]
POINTS = 40  # a child with four changes passes about as many


@pytest.mark.long("a child for each kill")
@pytest.mark.parametrize("kills", [30, pytest.param(1_000, marks=pytest.mark.soak)])
def test_killed_anywhere_nothing_is_lost_and_order_is_kept(migrated_file: Path, tmp_path: Path, kills: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    told, killed = storm(migrated_file, tmp_path / "store.sqlite3", 2 * kills, random.Random(seed))
    print(f"{told} events, {killed} kills")  # noqa: T201  for who reads on
    assert killed >= kills
    assert told


def storm(migrated_file: Path, store: Path, rounds: int, chance: random.Random) -> tuple[int, int]:
    """Kill children at any failpoint that they reach; return the numbers of sent events and of kills."""
    shutil.copyfile(migrated_file, store)
    url = f"sqlite:///{store}"
    engine, killed = open_engine(url), 0
    with Receiver().serving() as receiver:
        with transaction(engine, "test") as session:
            session.execute(sa.insert(users).values(id="ann", tier="free"))
            rows = [{"id": video, "user_id": "ann", "state": "live", "generation": 1} for video in telling.VIDEOS]
            session.execute(sa.insert(videos), rows)
        _, secret = webhooks.add(engine, receiver.url("/"), allow_private=True, author="test")
        receiver.secrets["/"].append(secret)
        for _ in range(rounds):
            receiver.answers["/"] = [chance.choice(ANSWERS) for _ in range(4)]
            killed += run(engine, url, f"*=kill@{chance.randint(1, POINTS)}", 4)
        receiver.answers.clear()
        while waiting(engine):
            assert not run(engine, url, "", 0)
        with reading(engine) as session:
            stands = session.execute(sa.select(videos.c.id, videos.c.generation))
            generations = {row.id: row.generation for row in stands}
        check(receiver, generations)
    engine.dispose()
    return sum(generations.values()) - len(generations), killed


def run(engine: sa.Engine, url: str, spec: str, changes: int) -> bool:
    """Run a child; True if it was killed. Then the time passes that anything waits for."""
    process = FORKED.Process(target=telling.child, args=(url, spec, changes))
    process.start()
    code = wait_for_end(process)
    assert code in (0, -signal.SIGKILL)
    with transaction(engine, "test") as session:
        session.execute(sa.update(leases).values(expires_at=LONG_AGO))
        session.execute(sa.update(outbox).values(due_at=LONG_AGO, attempts=0))
        session.execute(sa.update(webhook_endpoints).values(closed_until=LONG_AGO))
    return code != 0


def waiting(engine: sa.Engine) -> bool:
    with reading(engine) as session:
        return session.execute(sa.select(outbox.c.id).where(outbox.c.state == "waiting").limit(1)).scalar() is not None


def check(receiver: Receiver, generations: dict[str, int]) -> None:
    first: dict[str, dict[str, Any]] = {}  # by id
    for each in receiver.got["/"]:
        assert each.verified
        assert first.setdefault(each.id, each.data) == each.data, "one id, two events"
    came = defaultdict(list)
    for data in first.values():
        came[data["video_id"]].append(data["generation"])
    expected = {video: list(range(2, last + 1)) for video, last in generations.items() if last > 1}
    assert came == expected, "LOST, told twice under two ids, or out of order"
