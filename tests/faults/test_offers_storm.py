"""Six vendors in one worker, three models with offers of each, in bad weather, while workers are killed.

One vendor degrades, one is at its budget, and one takes two jobs at once. Every choice is compared with an exhaustive
search, no job is ever at two vendors, and what counts for each vendor is what that takes.
"""

import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.adapters.providers.contract import Generators
from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs import breaker as breaker_rules
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.jobs.routing import RoutingPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import alerts, jobs, vendor_jobs
from tests.adapters.providers.formats import FORMATS
from tests.doubles.fal import FalDouble
from tests.doubles.openrouter import OpenRouterDouble
from tests.doubles.runway import CREDITS
from tests.doubles.vendor import Job, Next, Vendor
from tests.doubles.weather import draw
from tests.faults import choices
from tests.faults.conftest import Child, MakeWorld, wait_for_end
from tests.faults.test_provider_storm import CLIP, charge, end_of, prompt_of
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances
from tests.operations.queue import pass_time, stalled
from tests.operations.shop import SMALL, key_of, run
from tests.policies import put_in_force
from tests.rules.jobs.offers import exhaustive

KILLS: Final = (
    "jobs.claim.after_commit",
    "jobs.announce.after_commit",
    "provider.submit.after",
    "jobs.sent.after_commit",
    "job.succeed.before_commit",
    "job.succeed.after_commit",
)
PRICES: Final = {  # of a clip, in micro-dollars
    "fal": 800_000,
    "replicate": 400_000,
    "runway": CREDITS * 10_000,
    "openai": 300_000,
    "openrouter": 700_000,
    "comfyui": 500_000,
}
OFFERS: Final = {
    "a": ("fal", "replicate", "runway"),
    "b": ("openai", "comfyui", "openrouter", "fal"),
    "c": ("runway", "openrouter"),
}
UNWELL, POOR, CROWDED = "replicate", "openai", "runway"  # one degrades, one is at its budget, one answers 429
BUDGET, TAKES = 2_400_000, 2
ROUNDS: Final = 60
WITHOUT_VIDEO: Final = {"in doubt"}  # how jobs end that bring none


def sold() -> PriceBook:
    """Sell each model by its offers, the first one's vendor as its own."""
    read = {"source": "a list", "read_on": "2026-11-25"}

    def at(vendor: str) -> dict[str, Any]:
        price = {"unit": "clip", "rates": [{"usd": f"{PRICES[vendor] / 10**6}"}], **read}
        return {"provider": vendor, "vendor_model": FORMATS[vendor].model, "price": price}

    models = [{"model": name, **at(first), "offers": [*map(at, rest)]} for name, (first, *rest) in OFFERS.items()]
    return PriceBook.model_validate({"models": models})


class Offers:
    """A world in which ann asks for videos of three models, and six vendors."""

    def __init__(self, world: World, vendors: dict[str, Vendor], chance: random.Random, folder: Path) -> None:
        self.world, self.vendors, self.chance = world, vendors, chance
        self.engine, self.choices = world.workspace.engine, folder / "choices"
        self.asked: dict[str, str] = {}  # job ids by prompt
        self.failed: set[str] = set()
        self.killed: set[int] = set()
        limit = SpendLimit(scope=f"provider:{POOR}", period=Period.DAY, usd=Decimal(BUDGET) / 10**6)
        admission = AdmissionPolicy(spend_limits=(limit,))
        put_in_force(
            self.engine,
            book=sold(),
            admission=admission,
            breaker=BreakerPolicy(bad_percent=40),
            routing=RoutingPolicy(wait_limit_seconds=60),
        )
        with transaction(self.engine, "test") as session:
            ledger.grant(session, "ann", 999 * DOLLAR, "more", run_id="test")
        self.funds = sum(balances(self.engine, "ann"))
        for name, vendor in vendors.items():
            vendor.weather = lambda what, _path, name=name: self.weather(name, what)  # type: ignore[misc]  # bound to this round
            vendor.fate = lambda job, name=name: self.fate(name, job)  # type: ignore[misc]  # as above

    def weather(self, name: str, what: str) -> Next | None:
        vendor = self.vendors[name]
        running = sum(job["status"] == "running" for job in vendor.jobs.values())
        if name == CROWDED and what == "submit" and running >= TAKES:
            return 429, {"error": "too many concurrent tasks"}, {"Retry-After": "1"}
        if name == UNWELL and what == "submit" and len(vendor.jobs) > 2 and self.chance.random() < 0.2:
            return 503, None
        own = what == "file" and name == "comfyui"  # it bills nothing, and makes again what stays unreadable
        return None if own else draw(self.chance, what)

    def fate(self, name: str, job: Job) -> str:
        prompt, ills = prompt_of(job), 0.8 if name == UNWELL and len(self.vendors[name].jobs) > 2 else 0.05
        if prompt not in self.failed and self.chance.random() < ills:
            self.failed.add(prompt)
            return "failed"
        return "succeeded"

    def ask(self, number: int) -> None:
        """Ask for so many more videos, of each model in turn."""
        for place in range(len(self.asked), len(self.asked) + number):
            prompt, model = f"video {place}", list(OFFERS)[place % len(OFFERS)]
            wanted = GenerationRequest.model_validate({**SMALL, "model": model, "prompt": prompt})
            answer = admit(self.engine, wanted, user_id="ann", client_key=key_of(prompt))
            assert isinstance(answer, Queued), answer
            self.asked[prompt] = answer.job_id

    def be_killed(self, start_child: Child, at: str) -> None:
        urls = {name: vendor.url for name, vendor in self.vendors.items()}
        about: dict[str, object] = {"urls": urls, "slots": 4, "seconds": 4, "choices": str(self.choices)}
        child = start_child("dispatch", self.world.address, f"{at}=kill", about)
        ended = wait_for_end(child)
        assert ended in (0, -signal.SIGKILL)
        if ended and child.pid:
            self.killed.add(child.pid)

    def work(self) -> None:
        """Run a worker, some time later, in which vendors end what nobody looks for."""
        for vendor in self.vendors.values():
            for job in vendor.jobs.values():
                job["status"] = job["status"].replace("running", "succeeded")
        self.world.expire_leases()
        pass_time(self.engine)
        made = {
            name: RemoteGenerator(FORMATS[name].connect(each), poll_seconds=0.02) for name, each in self.vendors.items()
        }
        run(self.world, Generators(made, None), slots=8, attempts=AttemptPolicy(most_attempts=10), seconds=6)  # type: ignore[arg-type]  # as `work` takes them

    def count(self, *states: JobState) -> int:
        counted = sa.select(sa.func.count()).where(jobs.c.state.in_(states))
        with reading(self.engine) as session:
            return int(session.execute(counted).scalar_one())

    def finish(self) -> None:
        """Work until only jobs are left that nobody can look up, and until a day has passed in calm weather."""
        self.work_off(JobState.QUEUED, JobState.RUNNING)
        for vendor in self.vendors.values():
            vendor.weather = lambda *_: None
        with transaction(self.engine, "test") as session:
            parked = jobs.c.state == JobState.PARKED
            session.execute(sa.update(jobs).where(parked).values(started_at=Clock(-25 * 3600)))
            session.execute(sa.update(vendor_jobs).values(sent_at=Clock(-25 * 3600)))
        self.work_off(*IN_FLIGHT)

    def work_off(self, *states: JobState) -> None:
        for _ in range(ROUNDS):
            self.work()
            if not self.count(*states):
                return
        raise AssertionError(f"jobs wait, and none is begun: {stalled(self.engine)}")


@pytest.fixture
def vendors(tiny_clip: Path) -> Iterator[dict[str, Vendor]]:
    with ExitStack() as serving:
        found = {name: serving.enter_context(FORMATS[name].double(tiny_clip.read_bytes()).serving()) for name in PRICES}
        fal, router = found["fal"], found["openrouter"]
        assert isinstance(fal, FalDouble)
        assert isinstance(router, OpenRouterDouble)
        fal.second_nanousd = PRICES["fal"] * 2_000  # the videos are half a second long
        router.cost_usd = PRICES["openrouter"] / 10**6
        yield found


@pytest.mark.long("workers of six vendors are killed six times")
@pytest.mark.parametrize("count", [24, pytest.param(180, marks=pytest.mark.soak)])
def test_each_job_goes_to_the_cheapest_offer_that_can_take_it_and_to_one_vendor_alone(
    vendors: dict[str, Vendor],
    make_world: MakeWorld,
    start_child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr(breaker_rules, "_FEWEST_ATTEMPTS", 3)
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    storm = Offers(make_world(), vendors, random.Random(seed), tmp_path)
    choices.record(storm.choices, monkeypatch.setattr)
    for at in KILLS:
        storm.ask(count // len(KILLS))
        storm.be_killed(start_child, at)
        storm.work()
    storm.finish()
    with reading(storm.engine) as session:
        rows = session.execute(sa.select(jobs)).all()
        told = {tuple(row) for row in session.execute(sa.select(alerts.c.rule, alerts.c.scope))}
    made_there = [(name, job) for name, vendor in vendors.items() for job in vendor.book]
    print(table(vendors, rows))  # noqa: T201  for who reads on

    # nothing is lost, and nothing is bought twice
    assert {row.id for row in rows} == {*storm.asked.values()}
    assert {row.state for row in rows} <= {JobState.SUCCEEDED, JobState.DEAD}
    assert {end_of(row) for row in rows if row.state == JobState.DEAD} <= WITHOUT_VIDEO
    bought = Counter(prompt_of(job) for _, job in made_there if job["status"] != "failed")
    assert {prompt for prompt, times in bought.items() if times > 1} == set()
    succeeded = [row for row in rows if row.state == JobState.SUCCEEDED]
    assert {row.request["prompt"] for row in succeeded} <= {*bought}
    assert balances(storm.engine, "ann") == (storm.funds - sum(row.price_microusd for row in succeeded), 0)

    # each is where the last choice sent it, which is the one of an exhaustive search
    last: dict[str, set[str]] = {}
    for chosen in choices.read(storm.choices):
        assert chosen.provider == exhaustive(chosen.offers, chosen.policy)
        if chosen.provider:
            before = last.get(chosen.prompt, set()) if chosen.process in storm.killed else set()  # perhaps not kept
            last[chosen.prompt] = before | {chosen.provider}
    assert {*last} == {*storm.asked}
    assert [row.id for row in rows if row.lane not in last[row.request["prompt"]]] == []

    # the books are the vendors' own
    for name, vendor in vendors.items():
        with reading(storm.engine) as session:
            column = vendor_jobs.c
            about = sa.select(sa.func.count(), sa.func.sum(column.counted_microusd)).where(column.provider == name)
            sent, counted = session.execute(about).one()
        taken = sum(charge(name, job) for job in vendor.book) // CLIP * PRICES[name]
        unknowable = 0 if FORMATS[name].finds_lost else (sent - len(vendor.book)) * PRICES[name]
        assert (name, counted or 0) == (name, taken + unknowable)
    assert len(vendors[POOR].submitted) * PRICES[POOR] <= BUDGET
    assert vendors[CROWDED].most_at_once <= TAKES
    assert (breaker_rules.RULE, f"provider:{UNWELL}") in told or count < 100
    assert len(succeeded) > count / 4  # else the checks above would be of failures alone; lost answers stay in doubt
    storm.world.check()


def table(vendors: dict[str, Vendor], rows: Sequence[sa.Row[Any]]) -> str:
    """Show what each vendor was sent, made and failed, and how the jobs ended that it was chosen for last."""
    ends = Counter((row.lane, row.state) for row in rows)
    lines = [
        f"{name}: {len(vendor.book)} made or failed, {sum(job['status'] == 'failed' for job in vendor.book)} "
        f"failed, {ends[name, JobState.SUCCEEDED]} delivered, {ends[name, JobState.DEAD]} in doubt"
        for name, vendor in vendors.items()
    ]
    return "\n".join(lines)
