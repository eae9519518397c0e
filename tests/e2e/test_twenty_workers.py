"""Twenty workers, each with a home of its own, share one PostgreSQL: work, deaths and outages, and all is done once."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import audit_events, crf_searches, jobs, users, view_days
from tests.clips import MakeClip
from tests.databases import Server
from tests.doubles.slack import SlackDouble
from tests.e2e.conftest import Install
from tests.e2e.installation import Installation, lives, until
from tests.faults.world import LONG_AGO, World
from tests.flows.scenes import recorded_days
from tests.operations.books import DOLLAR
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

pytestmark = [
    pytest.mark.long("half an hour: twenty workers on two cores"),
    pytest.mark.soak,
    pytest.mark.timeout(7200),
]
WORKERS, CLIPS, JOBS, USERS = 20, 400, 2_000, 40
DISPATCHERS = 4
STORE_AWAY_SECONDS, SERVER_AWAY_SECONDS = 10.0, 20.0
ALERTED_WITHIN = timedelta(minutes=1)  # of the state by which Prefect's server knows that a run is dead
# As docs/growing.md reckons: 1 for a worker, 3 for a run; the API's 16, and what the test itself opens.
FOR_A_WORKER, FOR_A_RUN, FOR_THE_REST = 1, 3, 25


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    """The PostgreSQL of the store, which the test stops; Prefect's is another."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-shared-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder), max_connections=300)
        yield server
        server.stop()


@pytest.fixture
def shared(install: Install, make_clip: MakeClip, store: Server) -> tuple[Installation, World]:
    """Cold clips and waiting jobs, Prefect's server, an API, and the workers at rest."""
    installation, world = install(make_clip(size="96x64", seconds=0.5), store.url())
    engine = world.workspace.engine
    put_in_force(
        engine,
        recipe=AT_ANY_PRICE,
        lifecycle=LifecyclePolicy(compress_limit=CLIPS, retire_below_views=None),
        budget=BudgetPolicy(daily_usd=None, monthly_usd=None),
    )
    people = [f"user{number}" for number in range(USERS)]
    with transaction(engine, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
        session.execute(sa.insert(users), [{"id": one, "tier": "pro", "created_at": LONG_AGO} for one in people])
        session.execute(sa.insert(view_days), recorded_days())
        for one in people:
            ledger.grant(session, one, 100 * DOLLAR, f"first of {one}", run_id="test")
    for number in range(CLIPS):
        world.video(f"cold{number}")
    for number in range(JOBS):
        wanted = GenerationRequest(
            model="a", prompt=f"cat number {number}", width=64, height=64, duration_seconds=0.5, fps=8
        )
        answer = admit(engine, wanted, user_id=people[number % USERS], client_key=f"once {number}")
        assert isinstance(answer, Queued), answer
    installation.start_server()
    installation.set_up()
    installation.hold_schedules()
    installation.start("api", "reelkeeper", "api", "--port", str(installation.api_port))
    for number in range(WORKERS):
        words = ("reelkeeper", "worker", "main", "encode", "--limit", "3")
        installation.start(f"worker{number}", *words, home=installation.folder / f"machine{number}")
    return installation, world


class Watch:
    """Count work and connections, time alerts, and cause deaths and outages, from outside of the workers."""

    def __init__(self, installation: Installation, world: World, store: Server, at_slack: SlackDouble) -> None:
        self.installation, self.world, self.store, self.at_slack = installation, world, store, at_slack
        self.outside = open_engine(store.url())
        self.killed: set[str] = set()  # runs on dead workers
        self.connections: list[tuple[int, int]] = []  # and how many the runs at work may have
        self.told_at: dict[str, datetime] = {}  # title: when Slack had it

    def done(self) -> int:
        """Return how many jobs and clips are done."""
        with reading(self.outside) as session:
            succeeded = sa.select(sa.func.count()).where(jobs.c.state == JobState.SUCCEEDED)
            swapped = sa.select(sa.func.count()).where(audit_events.c.event == "swap")
            return (session.scalar(succeeded) or 0) + (session.scalar(swapped) or 0)

    def look(self) -> None:
        for title in self.at_slack.titles():
            self.told_at.setdefault(title, datetime.now().astimezone())
        running = len(self.installation.runs("", "RUNNING", "PENDING", "CANCELLING"))
        counted = sa.text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        with self.outside.connect() as connection:
            found = connection.execute(counted).scalar_one()
        self.connections.append((found, WORKERS * FOR_A_WORKER + running * FOR_A_RUN + FOR_THE_REST))

    def kill_worker(self, chance: random.Random) -> None:
        """Kill one that has a run at work, and remember its runs; not the one that delivers alerts, which are timed."""

        def busy() -> dict[str, set[str]]:
            delivering = {run["id"] for run in self.installation.runs("deliver-alerts", "RUNNING", "PENDING")}
            found = {name: _runs_of(process.pid) for name, process in self.installation.processes.items()}
            return {
                name: runs
                for name, runs in found.items()
                if name.startswith("worker") and runs and not runs & delivering
            }

        at_work = until(busy, 300, "a worker has a run")
        name = chance.choice(sorted(at_work))
        left = self.installation.kill(name)
        accepted = {run["id"] for run in self.installation.runs("", "PENDING")}  # by it, perhaps, and not begun
        self.killed |= at_work[name] | accepted
        until(lambda: not [one for one in left if lives(one)], 30, "nothing of it lives on")

    def stop_store(self, _: random.Random) -> None:
        self.store.stop()
        time.sleep(STORE_AWAY_SECONDS)
        self.store.start()

    def stop_server(self, _: random.Random) -> None:
        self.installation.kill("server")
        time.sleep(SERVER_AWAY_SECONDS)
        self.installation.start_server()


def _runs_of(pid: int) -> set[str]:
    """Return the ids of the runs that this worker's children carry out."""
    found = set()
    for child in psutil.Process(pid).children(recursive=True):
        try:
            found.add(child.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except psutil.Error:
            continue
    return found - {""}


def test_all_is_done_once_whatever_dies_and_nothing_ends_but_what_was_killed(
    shared: tuple[Installation, World], store: Server, at_slack: SlackDouble
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  to try it again
    installation, world = shared
    chance, watch = random.Random(seed), Watch(installation, world, store, at_slack)
    installation.repeat("tier-storage", 60, helpers=WORKERS - 1)  # as if each night came a minute after the last
    installation.repeat("dispatch-jobs", 60)
    installation.repeat("deliver-alerts", 60)
    for number in range(DISPATCHERS):
        installation.begin("dispatch-jobs", f"dispatcher {number}", until_idle=True, seconds=3600)
    troubles: list[Callable[[random.Random], None]] = [watch.kill_worker] * 3 + [watch.stop_store, watch.stop_server]
    chance.shuffle(troubles)
    shares = sorted(chance.uniform(0.02, 0.7) for _ in troubles)
    began = time.monotonic()
    while (done := watch.done()) < CLIPS + JOBS:
        assert time.monotonic() - began < 5_400, f"{done} done, seed {seed}"
        watch.look()
        print(f"{time.monotonic() - began:.0f} s: {done} done, {watch.connections[-1]} connections", flush=True)  # noqa: T201  progress
        if troubles and done >= shares[0] * (CLIPS + JOBS):
            shares.pop(0)
            trouble = troubles.pop()
            print(f"{time.monotonic() - began:.0f} s, {done} done: {trouble.__name__}")  # noqa: T201  with the seed
            trouble(chance)
        time.sleep(5)
    print(f"all done after {time.monotonic() - began:.0f} s")  # noqa: T201  as its figures
    assert not troubles
    installation.hold_schedules()

    def over() -> bool:
        watch.look()
        return not installation.runs("", "RUNNING", "PENDING")

    until(over, 900, "all runs end", pause=2)
    ended, crashed = installation.runs("", "FAILED", "CRASHED"), installation.runs("", "CRASHED")
    most = max(found for found, _ in watch.connections)
    print(f"at most {most} connections, {len(crashed)} of {len(watch.killed)} killed runs have crashed")  # noqa: T201  as its figures
    alone = [(run["name"], run["state"]["message"]) for run in ended if run["id"] not in watch.killed]
    assert not alone, f"seed {seed}: {alone}"
    assert all(found <= may for found, may in watch.connections), [
        pair for pair in watch.connections if pair[0] > pair[1]
    ]
    _assert_told(watch, crashed)
    _assert_each_once(world)


def _assert_told(watch: Watch, crashed: list[dict[str, Any]]) -> None:
    """Each kind of run that crashed is told of within a minute of that."""
    first: dict[str, datetime] = {}
    for run in crashed:
        flow = watch.installation.ask("GET", f"/flows/{run['flow_id']}")["name"].replace("-", "_")
        at = datetime.fromisoformat(run["state"]["timestamp"])
        first[flow] = min(at, first.get(flow, at))
    assert first, "three workers died, and no run of theirs crashed"
    told = {
        flow: min((when for title, when in watch.told_at.items() if flow in title and "crashed" in title), default=None)
        for flow in first
    }
    seconds = {flow: when and round((when - first[flow]).total_seconds()) for flow, when in told.items()}
    print(f"told after {seconds} s")  # noqa: T201  as its figures
    late = {flow for flow, when in told.items() if when is None or when - first[flow] >= ALERTED_WITHIN}
    assert not late, seconds


def _assert_each_once(world: World) -> None:
    with reading(world.workspace.engine) as session:
        swaps = session.scalars(sa.select(audit_events.c.video_id).where(audit_events.c.event == "swap")).all()
        assert sorted(swaps) == sorted(f"cold{number}" for number in range(CLIPS))
        assert None not in set(session.scalars(sa.select(crf_searches.c.machine)))
        states = session.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all()
        assert [tuple(row) for row in states] == [(JobState.SUCCEEDED, JOBS)]
        made = session.scalars(sa.select(jobs.c.video_id)).all()
        assert len(set(made) - {None}) == JOBS
    world.check()
