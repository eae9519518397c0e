"""Many jobs in bad weather: each is paid at most once by its vendor's book, and charged once or not at all."""

import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import (
    VENDORS,
    FalProvider,
    OpenAIProvider,
    RemoteGenerator,
    ReplicateProvider,
    RunwayProvider,
    vendor_calls,
)
from reelkeeper.adapters.providers.fal import job_path
from reelkeeper.errors import SignatureRefused
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs.charged import doubts_to_end, end_doubts, reconcile
from reelkeeper.operations.jobs.claim import name_sent
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.vendor_charges import Ending, may_be_charged
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.store.billing import spend_counters
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import jobs, usage_days, vendor_jobs
from tests.adapters.providers.formats import FORMATS, Format
from tests.doubles.comfyui import ComfyUIDouble
from tests.doubles.fal import FalDouble
from tests.doubles.replicate import SIGNING_SECRET
from tests.doubles.runway import CREDITS
from tests.doubles.vendor import HTML, Call, Job, Next, Vendor
from tests.doubles.weather import draw
from tests.faults.conftest import Child, MakeWorld, wait_for_end
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances
from tests.operations.queue import pass_time, stalled
from tests.operations.shop import ask, run
from tests.policies import put_in_force

KILLS = ["jobs.claim.after_commit", "jobs.announce.after_commit", "provider.submit.after", "jobs.sent.after_commit"]
KILLS += ["upload.put.after", "job.succeed.before_commit", "job.succeed.after_commit"]
API_KILLS = ["admit.before_commit", "admit.after_commit"]
MODERATED, FAILED, EXPIRED = 0.08, 0.08, 0.04  # of all jobs; one that failed once succeeds when it is made again
STUCK, FORGOTTEN = 0.04, 0.03  # of all jobs; of all looks, by a vendor that bills: 404 for a while
FIXED: dict[str, tuple[str, Next]] = {
    "forgotten": ("read", (404, None)),
    "unreadable": ("file", HTML),
}  # what of a job is answered so, twice
SHIFT = 6  # seconds of a worker, which a job that is never over holds up
ROUNDS = 20  # in which no job ends, however many jobs there are and however slow the machine is
CLIP = CREDITS * 10_000  # micro-dollars: what each vendor takes for a video, and for what it may charge for


class Storm:
    """A world in which ann asks for `count` videos, and a vendor in bad weather."""

    def __init__(self, world: World, format_: Format, vendor: Vendor, count: int, chance: random.Random) -> None:
        self.world, self.format, self.vendor, self.chance = world, format_, vendor, chance
        self.engine = world.workspace.engine
        self.failed: set[str] = set()
        self.met: Counter[tuple[str, str]] = Counter()
        self.died = 0
        with transaction(self.engine, "test") as session:
            ledger.grant(session, "ann", 999 * DOLLAR, "more", run_id="test")
        self.name = next(name for name, known in FORMATS.items() if known is format_)
        provider = format_.connect(vendor)
        self.bills = provider.guarantee.bills
        self.generator = RemoteGenerator(provider, model=format_.model, poll_seconds=0.02)
        put_in_force(  # without breakers, as most jobs would wait the weather out
            self.engine, breaker=BreakerPolicy(bad_percent=None), book=PriceBook.model_validate({"models": [self.sold]})
        )
        self.funds = sum(balances(self.engine, "ann"))
        fixed = [name for name in FIXED for _ in range(max(5, count // 12))] if self.bills else []
        self.prompts = [f"{name} {number}" for number, name in enumerate(fixed)]  # first: chance would leave them out
        self.prompts += [f"{self._fate()} {number}" for number in range(len(fixed), count)]
        self.asked: list[str] = []
        vendor.weather, vendor.fate = self.weather, self.fate
        if isinstance(vendor, FalDouble):
            vendor.second_nanousd = CLIP * 2_000  # the videos are half a second long
            vendor.billed_as |= {"moderated", "cancelled"}

    @property
    def sold(self) -> dict[str, Any]:
        """The model that ann asks for, at the price of this vendor."""
        price = {"unit": "clip", "rates": [{"usd": f"{CLIP / 10**6}"}], "source": "a list", "read_on": "2026-11-25"}
        return {"model": "a", "provider": self.name, "vendor_model": self.format.model, "price": price}

    def weather(self, what: str, path: str) -> Next | None:
        job = self.vendor.jobs.get(next(iter(re.findall(r"/(p\d+)\b", path)), ""))
        fixed = FIXED.get(prompt_of(job).split()[0]) if job else None
        if job and fixed and fixed[0] == what and self.met[what, job["id"]] < 2:
            self.met[what, job["id"]] += 1
            return fixed[1]
        is_forgotten = what == "read" and self.bills and self.chance.random() < FORGOTTEN
        return (404, None) if is_forgotten else draw(self.chance, what)

    def _fate(self) -> str:
        drawn = self.chance.random()
        for name, share in (("moderated", MODERATED), ("failed", FAILED), ("expired", EXPIRED), ("stuck", STUCK)):
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
        return {"stuck": "running", "moderated": "moderated", "expired": "expired"}.get(prompt.split()[0], "succeeded")

    @contextmanager
    def deaths(self) -> Iterator[None]:
        """Kill and restart the vendor repeatedly, with its state kept.

        What it cuts off as it dies never came to it, and is not sent again, as nothing proves that. Without breakers a
        death may cut off all that wait, so it takes a third of the requests before the first one.
        """
        over, chance = threading.Event(), random.Random(self.chance.random())

        def die() -> None:
            while not over.wait(chance.uniform(0.2, 1.5)):
                if len(self.vendor.submitted) < len(self.prompts) / 3:
                    continue
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
        vendor = self.format.double.__name__.removesuffix("Double").lower()
        if vendor not in VENDORS:
            return
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

    def waiting(self) -> int:
        """Count the jobs that are neither over nor parked, those apart that the vendor never ends."""
        waits = sa.select(jobs.c.request).where(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
        with reading(self.engine) as session:
            return sum(not asked["prompt"].startswith("stuck") for asked in session.execute(waits).scalars())

    def let_time_pass(self) -> None:
        self.world.expire_leases()
        pass_time(self.engine)

    def weather_it(self, patience: AttemptPolicy) -> None:
        """Run workers, with time in between, until only jobs in doubt are left, which are then polled without pause."""
        rounds, fewest = 0, self.waiting()
        while fewest:
            self.work(patience)
            left = self.waiting()
            rounds, fewest = (rounds + 1, fewest) if left >= fewest else (0, left)
            assert rounds < ROUNDS, f"jobs wait, and none ends: {stalled(self.engine)}"
        for _ in range(3):  # what is parked is looked for again and again
            self.work(patience)

    def work(self, patience: AttemptPolicy, slots: int = 8) -> None:
        """Run a worker, some time later."""
        self.let_time_pass()
        run(self.world, self.generator, slots=slots, attempts=patience, seconds=SHIFT)
        self.call_twice()

    def sent(self) -> list[sa.Row[Any]]:
        """Read the jobs that the vendor has or may have, as we know them."""
        with reading(self.engine) as session:
            return list(session.execute(sa.select(vendor_jobs)).all())

    def charged(self) -> int:
        """Return what the vendor takes for its jobs, in micro-dollars."""
        return sum(charge(self.name, job) for job in self.vendor.book)

    def a_day_later(self, *which: sa.ColumnElement[bool]) -> None:
        """Let a day pass for open jobs: all, or some."""
        is_open = jobs.c.state.in_([JobState.PARKED, JobState.QUEUED, JobState.RUNNING])
        with transaction(self.engine, "test") as session:
            session.execute(sa.update(jobs).where(is_open, *which).values(started_at=Clock(-25 * 3600)))
            session.execute(sa.update(vendor_jobs).values(sent_at=Clock(-25 * 3600)))

    def unknowable(self, rows: Sequence[sa.Row[Any]]) -> int:
        """Count the jobs that the vendor may have taken, as far as anybody here can know, and that never came."""
        if self.format.finds_lost:  # the others were missing in its list a day later
            return sum(end_of(row) == "given up" and not self.job_of(row) for row in rows)
        return len(self.sent()) - len(self.vendor.book)

    def check_parked(self, patience: AttemptPolicy) -> None:
        """Within the hour the vendor answers, and nothing is parked that it can be asked for and has ended readably.

        No job is over yet since the vendor did not find it, where it bills.
        """
        self.vendor.weather, weather = lambda *_: None, self.vendor.weather
        endless = sum(job["status"] == "running" for job in self.vendor.jobs.values())  # each holds up a slot
        self.work(patience, slots=8 + endless)
        self.vendor.weather = weather
        with reading(self.engine) as session:
            rows = session.execute(sa.select(jobs).where(jobs.c.state.in_([JobState.PARKED, JobState.DEAD]))).all()
        ends = {"moderated", "given up"} if self.bills else {"moderated", "given up", "expired"}
        for row in rows:
            if row.state == JobState.DEAD:
                assert end_of(row) in ends, row.error
            elif (there := self.job_of(row)) and (row.provider_job_id or self.format.finds_lost):
                # not over there, or its result stays unreadable
                assert there["status"] in ("running", "expired"), (there, row.error)
                assert row.provider_job_id, "it was not asked for"
            else:  # the vendor cannot be asked, or does not find it, which proves nothing where it bills
                assert self.bills, row.error
                assert row.provider_job_id is None, row.error

    def job_of(self, row: sa.Row[Any]) -> Job | None:
        """Return the vendor's job, by the id that we have for it, or else by our key."""
        name = (row.provider_job_id or "").rpartition("/")[2]
        named = next((job for job in self.vendor.book if job["id"] == name), None)
        return named or next((job for job in self.vendor.book if job["key"] == row.provider_key), None)

    def check_made(self) -> None:
        """Check that each clip that the vendor has made has come to its user, however few requests came to the vendor.

        Where the vendor has no list by our keys, only those count whose answers, or calls, gave us its id.
        """
        with reading(self.engine) as session:
            rows = session.execute(sa.select(jobs)).all()
        known = [row for row in rows if row.provider_job_id or self.format.finds_lost]
        there = [row for row in known if (job := self.job_of(row)) and job["status"] == "succeeded"]
        assert there, "the vendor made nothing, so this storm shows nothing"
        left = [(row.request["prompt"], row.error) for row in there if row.state != JobState.SUCCEEDED]
        assert not left, "made there, and not fetched"

    def made_again(self) -> int:
        """Count the jobs that were made once more although none failed: each as what was made before is no video."""
        made: dict[str, list[Job]] = {}
        for job in self.vendor.book:
            if job["status"] != "failed":
                made.setdefault(prompt_of(job), []).append(job)
        again = [pair for same in made.values() for pair in pairwise(same)]
        for earlier, later in again:
            assert isinstance(self.vendor, ComfyUIDouble), "bought twice"
            assert not self.bills
            assert earlier["id"] in self.vendor.unreadable, "made twice"
            assert self.vendor.unreadable[earlier["id"]] < later["at"], "made twice"
        return len(again)

    def billed(self) -> int:
        """Return what our bill has for the vendor's jobs, in micro-dollars."""
        column = usage_days.c
        wanted = sa.select(sa.func.sum(column.quantity))
        wanted = wanted.where(column.metric == Metric.JOB_MICROUSD, column.user_id == "")
        with reading(self.engine) as session:
            return int(session.execute(wanted).scalar_one())

    def check_books(self, taken_microusd: int) -> None:
        """Check that the bill and the budgets have what the vendor takes."""
        with reading(self.engine) as session:
            budget = spend_counters.so_far(session, now(session)).today_microusd
            made = session.execute(sa.select(jobs).where(jobs.c.state == JobState.SUCCEEDED)).all()
        assert self.billed() == taken_microusd
        storage = sum(row.quoted_cost_microusd - CLIP for row in made)  # counts with the quote of a video
        assert budget == taken_microusd + storage

    def check(self) -> Counter[str]:
        """Compare our ledger with the vendor's book, and return the jobs' outcomes."""
        with reading(self.engine) as session:
            rows = session.execute(sa.select(jobs)).all()
        assert {row.id for row in rows} == {*self.asked}
        made_there = self.vendor.book
        billed = {prompt_of(job) for job in made_there if job["status"] != "failed"}
        again = self.made_again()
        made = [row for row in rows if row.state == JobState.SUCCEEDED]
        assert {row.request["prompt"] for row in made} <= billed
        assert balances(self.engine, "ann") == (self.funds - sum(row.price_microusd for row in made), 0)
        ends = Counter(end_of(row) for row in rows)
        refused = [row for row in rows if row.request["prompt"].startswith("moderated") and end_of(row) != "in doubt"]
        assert ends["moderated"] == len(refused)
        sent, failed = self.sent(), sum(job["status"] == "failed" for job in made_there)
        never_came, unknowable = len(sent) - len(made_there), self.unknowable(rows)
        assert len(sent) == len(self.asked) + failed + again, "jobs made = requests + what the vendor failed"
        self.check_books(self.charged() + unknowable * CLIP)
        print(  # noqa: T201  the table of the storm
            f"{self.name}: {len(rows)} requests, {len(made_there)} jobs made, {failed} failed there, "
            f"{again} made again, {never_came} never came, {unknowable} of them for all that anybody can know; "
            f"it takes ${self.charged() / 10**6:.2f}, our bill ${self.billed() / 10**6:.2f}"
        )
        assert not [row.error for row in rows if end_of(row) == "another"]
        self.world.check()
        return ends


def prompt_of(job: Job) -> str:
    return str((job.get("input") or job["form"])["prompt"])


def charge(vendor: str, job: Job) -> int:
    """Return what a vendor takes for a job, in micro-dollars: also where it may, and nobody knows that it does."""
    ended = {"failed": Ending.FAILED, "moderated": Ending.MODERATED}.get(job["status"])
    tells_nothing = vendor == "runway" and ended is Ending.FAILED  # by its own word
    return CLIP if ended is None or (may_be_charged(vendor, ended) and not tells_nothing) else 0


def end_of(row: sa.Row[Any]) -> str:
    if row.state == JobState.SUCCEEDED:
        return "made"
    words = {"result unknown": "in doubt", "refuses its content": "moderated", "no longer has": "expired"}
    words["no success here"] = "given up"  # its workers were killed again and again
    return next((end for word, end in words.items() if row.state == JobState.DEAD and word in row.error), "another")


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        pytest.param(25, 5, marks=pytest.mark.long),
        pytest.param(60, 10, marks=[pytest.mark.long, pytest.mark.soak]),
        pytest.param(1_000, 20, marks=[pytest.mark.long, pytest.mark.soak]),
    ],
)
def test_each_job_is_paid_and_charged_once_or_not_at_all(
    format_: Format, vendor: Vendor, make_world: MakeWorld, start_child: Child, count: int, kills: int
) -> None:
    vendor_calls._fetched.clear()  # a double before this one may have had its port, and other keys
    seed = random.randrange(10**6)
    storm = Storm(make_world(), format_, vendor, count, random.Random(seed))
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    storm.ask(start_child, kills // 2)
    for number in range(kills):
        at = storm.chance.choice(KILLS) if number else "provider.submit.after"  # chance may leave this one out
        arguments: dict[str, object] = {"urls": {storm.name: vendor.url}, "seconds": SHIFT}
        with storm.deaths():
            child = start_child("dispatch", storm.world.address, f"{at}=kill", arguments)
            assert wait_for_end(child) in (0, -signal.SIGKILL)
        storm.let_time_pass()
    with storm.deaths():
        storm.weather_it(AttemptPolicy(most_attempts=10))
    storm.check_parked(AttemptPolicy(most_attempts=10))
    storm.a_day_later(jobs.c.provider_job_id.is_not(None))
    storm.weather_it(AttemptPolicy(most_attempts=10))
    vendor.weather = lambda *_: None  # what is left was never named, and the vendor's list can be read
    storm.a_day_later()
    storm.weather_it(AttemptPolicy(most_attempts=10))
    storm.check_made()
    for job in vendor.jobs.values():  # whose answers were lost for good: they end there, too
        job["status"] = job["status"].replace("running", "succeeded")
    ends = storm.check()
    told = f"{len(vendor.jobs)} at the vendor, which died {storm.died} times"
    print(f"{storm.name}, {count} jobs: {dict(ends)}, {told}")  # noqa: T201  for who reads on
    today, provider = datetime.now(UTC).date(), format_.connect(vendor)
    if isinstance(provider, FalProvider | ReplicateProvider | RunwayProvider | OpenAIProvider):
        found = reconcile(storm.engine, provider, today - timedelta(days=3), today + timedelta(days=1))
        assert found.ours_nanousd == storm.billed() * 1_000
        if found.theirs_nanousd is not None:  # Replicate and engines list their jobs without what they take
            unknowable = (storm.billed() - storm.charged()) * 1_000  # as counted above
            assert found.theirs_nanousd == storm.charged() * 1_000 == found.ours_nanousd - unknowable
        if not found.sums:
            is_bill = isinstance(vendor, FalDouble)  # without what it does not charge for
            listed = [job for job in vendor.jobs.values() if not is_bill or charge(storm.name, job)]
            assert len(found.both) + len(found.only_theirs) == len(listed)
            assert not found.only_theirs or not format_.finds_lost  # or their answers were lost, and nobody can ask
        never_came = doubts_to_end(storm.engine, found, today - timedelta(days=3))
        end_doubts(storm.engine, never_came, author="test", run_id="test")
        storm.check_books(storm.charged())  # to the cent, also where lost jobs are not found by our key
