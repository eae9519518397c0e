"""Many jobs in bad weather: each is paid at most once by its vendor's book, and charged once or not at all."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import FalProvider, RemoteGenerator, vendor_calls
from reelkeeper.adapters.providers.fal import job_path
from reelkeeper.errors import SignatureRefused
from reelkeeper.model.access import Scope
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs.claim import name_sent
from reelkeeper.operations.jobs.vendor_bill import reconcile
from reelkeeper.rules.billing.vendor_charges import Ending, may_be_charged
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.store.billing import spend_counters
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import jobs, vendor_jobs
from tests.adapters.providers.formats import FORMATS, Format
from tests.doubles.fal import FalDouble
from tests.doubles.replicate import SIGNING_SECRET
from tests.doubles.runway import RunwayDouble
from tests.doubles.vendor import Call, Job, Vendor
from tests.doubles.weather import draw
from tests.faults.conftest import Child, MakeWorld, wait_for_end
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances
from tests.operations.queue import expire_claims, make_due
from tests.operations.shop import ask, run
from tests.policies import put_in_force

NAMES = ["fal", "replicate", "runway", "openai", "comfyui"]
KILLS = ["jobs.claim.after_commit", "jobs.announce.after_commit", "provider.submit.after", "jobs.sent.after_commit"]
KILLS += ["upload.put.after", "job.succeed.before_commit", "job.succeed.after_commit"]
API_KILLS = ["admit.before_commit", "admit.after_commit"]
MODERATED, FAILED, EXPIRED = 0.08, 0.08, 0.04  # of all jobs; one that failed once succeeds when it is made again
ROUNDS = 40


class Storm:
    """A world in which ann asks for `count` videos, and a vendor in bad weather."""

    def __init__(self, world: World, format_: Format, vendor: Vendor, count: int, chance: random.Random) -> None:
        self.world, self.format, self.vendor, self.chance = world, format_, vendor, chance
        self.engine = world.workspace.engine
        self.failed: set[str] = set()
        self.died = 0
        with transaction(self.engine, "test") as session:
            ledger.grant(session, "ann", 999 * DOLLAR, "more", run_id="test")
        put_in_force(self.engine, breaker=BreakerPolicy(bad_percent=None))  # or most jobs wait the weather out
        self.funds = sum(balances(self.engine, "ann"))
        self.prompts = [f"{self._fate()} {number}" for number in range(count)]
        self.asked: list[str] = []
        vendor.weather, vendor.fate = partial(draw, chance), self.fate

    def _fate(self) -> str:
        drawn = self.chance.random()
        for name, share in (("moderated", MODERATED), ("failed", FAILED), ("expired", EXPIRED)):
            if (drawn := drawn - share) < 0:
                return name
        return "succeeded"

    def ask(self, start_child: Child, kills: int) -> None:
        """Ask for all over HTTP; the API dies again and again, and at last the rest is asked for with the same keys."""
        _, token = tokens.create(self.engine, "a test", (Scope.JOBS,), author="test")
        for _ in range(kills):
            at = f"{self.chance.choice(API_KILLS)}=kill@{self.chance.randint(1, len(self.prompts))}"
            begun = start_child("api", self.world.address, at, {"prompts": self.prompts, "token": token})
            assert wait_for_end(begun) in (0, -signal.SIGKILL)
        self.asked = ask(self.world, *self.prompts)

    def fate(self, job: Job) -> str:
        prompt = prompt_of(job)
        if prompt.startswith("failed") and prompt not in self.failed:
            self.failed.add(prompt)
            return "failed"
        return prompt.split()[0].replace("failed", "succeeded")

    @contextmanager
    def deaths(self) -> Iterator[None]:
        """Kill and restart the vendor repeatedly, with its state kept."""
        over, chance = threading.Event(), random.Random(self.chance.random())

        def die() -> None:
            while not over.wait(chance.uniform(0.2, 1.5)):
                self.vendor.is_dead = True
                over.wait(chance.uniform(0.05, 0.3))
                self.vendor.is_dead = False
                self.died += 1

        thread = threading.Thread(target=die)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def call_twice(self) -> None:
        """Send the vendor's webhooks about some of its jobs, each twice, and forged and repeated ones."""
        name = self.format.double.__name__
        if name not in ("FalDouble", "ReplicateDouble"):
            return
        vendor = "fal" if name == "FalDouble" else "replicate"
        for job in self.chance.sample(list(self.vendor.jobs.values()), min(10, len(self.vendor.jobs))):
            call = self.vendor.call(job)
            other = self.chance.choice(list(self.vendor.jobs.values()))
            forged = [
                (call._replace(body=call.body.replace(job["id"].encode(), b"another")), 0.0),
                (call._replace(query=self.vendor.call(other | {"key": "another-1"}).query + "0"), 0.0),
                (call, 900.0),  # a quarter of an hour later
            ]
            for each, seconds in forged:
                with pytest.raises(SignatureRefused):
                    self._read(vendor, each, seconds)
            try:
                read = self._read(vendor, call)
            except SignatureRefused:  # fal's keys were not to be had, and it calls again later
                continue
            path = job_path(self.format.model, read.job_id) if vendor == "fal" else read.job_id
            for _ in range(2):
                name_sent(self.engine, read.key, lambda _, path=path: path)  # type: ignore[misc]  # bound to this round

    def _read(self, vendor: str, call: Call, later_seconds: float = 0.0) -> vendor_calls.Call:
        headers, query = {key.lower(): value for key, value in call.headers.items()}, dict(parse_qsl(call.query))
        keys: dict[str, Any] = {"url": self.vendor.url, "allow_private": True}
        at = time.time() + later_seconds
        return vendor_calls.verify(vendor, SIGNING_SECRET, query, headers, call.body, at, **keys)

    def states(self) -> Counter[str]:
        with reading(self.engine) as session:
            return Counter(session.execute(sa.select(jobs.c.state)).scalars())

    def let_time_pass(self) -> None:
        expire_claims(self.engine)
        self.world.expire_leases()
        make_due(self.engine)

    def weather_it(self, patience: AttemptPolicy) -> None:
        """Run workers, with time in between, until only jobs in doubt are left, which are then polled without pause."""
        generator = RemoteGenerator(self.format.connect(self.vendor), model=self.format.model, poll_seconds=0.02)
        for _ in range(ROUNDS):
            self.let_time_pass()
            run(self.world, generator, slots=8, attempts=patience)
            self.call_twice()
            if not {JobState.QUEUED, JobState.RUNNING} & {*self.states()}:
                break
        for _ in range(3):  # what is parked is looked for again and again
            self.let_time_pass()
            run(self.world, generator, slots=8, attempts=patience)
            self.call_twice()

    def charged(self, rows: Sequence[sa.Row[Any]]) -> int:
        """Return what the vendor takes for all its jobs, and the price of those that it may have taken, and did not."""
        (quoted,) = {row.quoted_cost_microusd for row in rows}
        with reading(self.engine) as session:
            sent = session.execute(sa.select(vendor_jobs)).all()
        made = self.vendor.jobs.values()
        charges = sum(charge(sent[0].provider, job, int(quoted)) for job in made)
        return charges + (len(sent) - len(made)) * int(quoted)

    def check(self) -> Counter[str]:
        """Compare our ledger with the vendor's book, and return the jobs' outcomes."""
        with reading(self.engine) as session:
            rows = session.execute(sa.select(jobs)).all()
            budget = spend_counters.so_far(session, now(session)).today_microusd
        assert {row.id for row in rows} == {*self.asked}
        billed = Counter(prompt_of(job) for job in self.vendor.jobs.values() if job["status"] != "failed")
        assert not [prompt for prompt, times in billed.items() if times > 1], "paid twice"
        made = [row for row in rows if row.state == JobState.SUCCEEDED]
        assert all(billed[row.request["prompt"]] == 1 for row in made)
        assert balances(self.engine, "ann") == (self.funds - sum(row.price_microusd for row in made), 0)
        ends = Counter(end_of(row) for row in rows)
        refused = [row for row in rows if row.request["prompt"].startswith("moderated") and end_of(row) != "in doubt"]
        assert ends["moderated"] == len(refused)
        assert budget == self.charged(rows)
        assert not [row.error for row in rows if end_of(row) == "another"]
        self.world.check()
        return ends


def prompt_of(job: Job) -> str:
    return str((job.get("input") or job["form"])["prompt"])


def charge(provider: str, job: Job, quoted: int) -> int:
    """Return what the vendor takes for a job, in micro-dollars; for one that nobody looked at again, its price."""
    if provider == "runway" and job["status"] != "running":
        return RunwayDouble.credits_of(job) * 10_000
    ended = {"failed": Ending.FAILED, "moderated": Ending.MODERATED}.get(job["status"])
    return quoted if ended is None or may_be_charged(provider, ended) else 0


def end_of(row: sa.Row[Any]) -> str:
    if row.state == JobState.SUCCEEDED:
        return "made"
    words = {"result unknown": "in doubt", "refuses its content": "moderated", "no longer has": "expired"}
    words["no success here"] = "given up"  # its workers were killed again and again
    return next((end for word, end in words.items() if row.state == JobState.DEAD and word in row.error), "another")


@pytest.fixture(params=NAMES)
def format_(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def vendor(format_: Format, tiny_clip: Path) -> Iterator[Vendor]:
    with format_.double(tiny_clip.read_bytes()).serving() as serving:
        yield serving


@pytest.mark.parametrize(
    ("count", "kills"),
    [pytest.param(50, 5, marks=pytest.mark.long), pytest.param(1_000, 20, marks=[pytest.mark.long, pytest.mark.soak])],
)
def test_each_job_is_paid_and_charged_once_or_not_at_all(
    format_: Format, vendor: Vendor, make_world: MakeWorld, start_child: Child, count: int, kills: int
) -> None:
    vendor_calls._fetched.clear()  # a double before this one may have had its port, and other keys
    seed = random.randrange(10**6)
    storm = Storm(make_world(), format_, vendor, count, random.Random(seed))
    name = next(name for name, known in FORMATS.items() if known is format_)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    storm.ask(start_child, kills // 2)
    for _ in range(kills):
        arguments: dict[str, object] = {"provider": vendor.url, "format": name}
        with storm.deaths():
            child = start_child("dispatch", storm.world.address, f"{storm.chance.choice(KILLS)}=kill", arguments)
            assert wait_for_end(child) in (0, -signal.SIGKILL)
        storm.let_time_pass()
    with storm.deaths():
        storm.weather_it(AttemptPolicy(most_attempts=10))
    with transaction(storm.engine, "test") as session:  # a day later
        session.execute(sa.update(jobs).where(jobs.c.state == JobState.PARKED).values(started_at=Clock(-25 * 3600)))
    storm.weather_it(AttemptPolicy(most_attempts=10))
    ends = storm.check()
    told = f"{len(vendor.jobs)} at the vendor, which died {storm.died} times"
    print(f"{name}, {count} jobs: {dict(ends)}, {told}")  # noqa: T201  for who reads on
    if isinstance(vendor, FalDouble):  # whose bill names each request
        vendor.weather = lambda _: None
        today, provider = datetime.now(UTC).date(), FORMATS["fal"].connect(vendor)
        assert isinstance(provider, FalProvider)
        found = reconcile(storm.engine, provider, today - timedelta(days=3), today + timedelta(days=1))
        assert (found.theirs_nanousd, found.only_theirs) == (vendor.invoice_nanousd, ())
    few = 3 if format_.finds_lost else 10  # without a look-up, each job whose answer was lost stays in doubt
    assert ends["made"] > count / few
