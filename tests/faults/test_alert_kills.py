"""SIGKILL at every failpoint of observing and delivering: every alert is sent, at most one of them twice."""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.model.alerts import MessageState
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import leases, outbox
from tests.children import FORKED
from tests.doubles.slack import SlackDouble
from tests.faults import alerting
from tests.faults.conftest import EVERY, first_of, wait_for_end
from tests.faults.world import LONG_AGO
from tests.posts import post


@pytest.fixture(scope="module")
def double() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


def run(store_url: str, double: SlackDouble, spec: str) -> bool:
    """Run it in a child; True if it got to its end. Then the minutes pass after which a dead run's turn is free."""
    process = FORKED.Process(target=alerting.child, args=(store_url, double.api_url, double.second_url, spec))
    process.start()
    code = wait_for_end(process)
    assert code in (0, -signal.SIGKILL)
    engine = open_engine(store_url)
    with transaction(engine, "test") as session:
        session.execute(sa.update(leases).values(expires_at=LONG_AGO))
        session.execute(sa.update(outbox).values(due_at=LONG_AGO))
    engine.dispose()
    return code == 0


@pytest.mark.long
@EVERY
def test_killed_at_any_failpoint_the_next_run_tells_it_all(
    double: SlackDouble, migrated_file: Path, tmp_path: Path, every: int
) -> None:
    for point in count(first_of(every), every):
        double.reset()
        double.too_long = alerting.REFUSED
        store = tmp_path / f"{point}.sqlite3"
        shutil.copyfile(migrated_file, store)
        ended = run(f"sqlite:///{store}", double, f"*=kill@{point}")
        assert run(f"sqlite:///{store}", double, "")
        check(f"sqlite:///{store}", double, point)
        if ended:
            break
    assert point > 30  # before and after each commit, and each effect


@pytest.mark.long
def test_four_processes_keep_slacks_pace_together(double: SlackDouble, engine: sa.Engine) -> None:
    double.reset()
    titles = [f"message {number}" for number in range(30)]
    for title in titles:
        post(engine, title)
    url = engine.url.render_as_string(hide_password=False)
    senders = [
        FORKED.Process(target=alerting.sender, args=(url, double.api_url, double.second_url, 45.0)) for _ in range(4)
    ]
    for process in senders:
        process.start()
    for process in senders:
        assert wait_for_end(process, seconds=120) == 0
    assert double.titles() == titles
    assert min(double.gaps()) >= 1


def check(store_url: str, double: SlackDouble, point: int) -> None:
    engine = open_engine(store_url)
    with reading(engine) as session:
        rows = session.execute(sa.select(outbox.c.state, outbox.c.payload)).all()
    engine.dispose()
    titles = Counter((row.state, row.payload["title"]) for row in rows)
    told, refused = "total at 80 %", f"{alerting.REFUSED} at 80 %"
    assert titles == {
        (MessageState.SENT, told): 1,
        (MessageState.SENT, f"Over: {told}"): 1,
        (MessageState.DIVERTED, refused): 1,
        (MessageState.DIVERTED, f"Over: {refused}"): 1,
    }, f"killed at {point}"
    sent = Counter(double.titles()) + Counter(entry["title"] for entry in double.second)
    assert set(sent) == {f"🟠 Warning: {told}", f"🟢 Over: {told}", refused, f"Over: {refused}"}, f"LOST at {point}"
    assert sum(sent.values()) <= 5, f"more than one message twice: killed at {point}"
