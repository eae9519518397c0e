"""`simulate`: the rules on drawn or recorded load, by a virtual clock, beside others: try a policy before using it."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from reelkeeper.cli import parameters
from reelkeeper.cli.commands.simulate_lifecycle import lifecycle
from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.cli.words import AsJson
from reelkeeper.errors import InputRefused, Misconfigured

if TYPE_CHECKING:
    from sqlmodel import Session

    from reelkeeper.model.jobs import RecordedJob, RecordedRequest

group = typer.Typer(
    no_args_is_help=True,
    help="Try a policy on drawn or recorded load, or on the catalogue, before using it. Changes nothing.",
)

group.command()(lifecycle)

Seed = Annotated[int, typer.Option(help="The same seed draws the same load.")]
Param = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="Change ours, e.g. policy.oldest_share=0.2. May be repeated."),
]
Recorded = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|store",
        help="Play what was recorded: `store`, or a CSV file of `reelkeeper jobs export`. Nothing is drawn then.",
    ),
]
_NOTE = "A model, the same for every row: it compares policies, and predicts nothing."
_LEAST = 10  # jobs or requests that say anything


@group.command()
def queue(
    distribution: Annotated[
        str, typer.Option(help="Of complexity: uniform, exponential, lognormal, bimodal or pareto.")
    ] = ("lognormal"),
    jobs: Annotated[int, typer.Option(min=100, max=100_000, help="Jobs to draw, or the last that were made.")] = 4000,
    slots: Annotated[int, typer.Option(min=1, max=1000, help="Jobs that run at once.")] = 8,
    load: Annotated[float, typer.Option(min=0.05, max=2, help="Share of the slots' time that the jobs take.")] = 0.85,
    error: Annotated[float, typer.Option(min=0, max=3, help="Deviation of ln(estimate / truth).")] = 0.3,
    recorded: Recorded = None,
    seed: Seed = 1,
    param: Param = None,
    as_json: AsJson = False,
) -> None:
    """Play one stream of jobs through the queue, under our rule and others.

    `clairvoyant` is the bound: the shortest first, by what jobs will really take.
    """
    from reelkeeper.operations.core.overrides import Override
    from reelkeeper.rules.core.tiers import Tiers
    from reelkeeper.rules.jobs.dispatch import DispatchPolicy
    from reelkeeper.rules.policies import DEFAULTS
    from reelkeeper.simulation import queue as simulation

    if distribution not in simulation.COMPLEXITY:
        raise Misconfigured(f"no distribution {distribution!r}; there are {', '.join(simulation.COMPLEXITY)}")

    def taken(policy: DispatchPolicy, tiers: Annotated[Tiers | None, Override()]) -> None: ...

    given = parameters.read("simulate queue", taken, param or [])
    tiers = DEFAULTS.overridden(tiers=given.get("tiers")).tiers
    ours = simulation.Rules(given.get("policy", DispatchPolicy()), tiers)
    if recorded is None:
        coming = simulation.arrivals(distribution, seed=seed, count=jobs, slots=slots, load=load, error_sigma=error)
        loaded, drawn = simulation.SECONDS_AT_FULL_LOAD, f"{distribution} complexity, {slots} slots, {load:.0%} busy"
    else:
        coming = simulation.recorded(_recorded_jobs(recorded, jobs))
        loaded, drawn = 0.0, f"record, {slots} slots"

    def played(rules: simulation.Rules, jobs: "list[simulation.Arrival]") -> simulation.Waits:
        return simulation.run(jobs, rules, slots=slots, loaded_seconds=loaded)

    waits = {name: played(policy, coming) for name, policy in (simulation.POLICIES | {"ours": ours}).items()}
    waits["clairvoyant"] = played(simulation.POLICIES["shortest"], simulation.clairvoyant(coming))
    if as_json:
        emit(waits)
        return
    fifo = waits["fifo"]
    headings = (
        "!policy",
        ">mean wait",
        ">against fifo",
        ">p50",
        ">p95",
        ">p99",
        ">worst",
        *(f">{tier}" for tier in fifo.by_tier),
    )
    rows = [
        (
            name,
            _minutes(wait.mean_seconds),
            f"{wait.mean_seconds / fifo.mean_seconds - 1:+.0%}" if fifo.mean_seconds else "-",
            *map(_minutes, (wait.p50_seconds, wait.p95_seconds, wait.p99_seconds, wait.worst_seconds)),
            *(_minutes(wait.by_tier[tier]) for tier in fifo.by_tier),
        )
        for name, wait in waits.items()
    ]
    title = f"{len(coming):,} jobs of {drawn}: waits in minutes"
    table(headings, rows, title=title)
    say(_NOTE)


@group.command()
def cache(
    budget_gb: Annotated[float, typer.Option(min=0.1, max=10_000, help="GB that each but the last two may take.")] = 10,
    trace: Annotated[
        str, typer.Option(help="What is asked for: templates, scans, bursts, loops, sessions, fashions or studios.")
    ] = "templates",
    days: Annotated[int, typer.Option(min=1, max=365, help="Days of requests.")] = 30,
    requests_a_day: Annotated[int, typer.Option(min=10, max=100_000, help="Requests on each.")] = 3000,
    recorded: Recorded = None,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Send one stream of requests to several caches: ours, S3-FIFO, W-TinyLFU, the least recently used, and others.

    `unlimited` is the bound: it keeps everything.
    """
    from reelkeeper.simulation import cache as simulation
    from reelkeeper.simulation.cache import CACHES, GB, serve
    from reelkeeper.simulation.traces import TRACES

    if trace not in TRACES:
        raise Misconfigured(f"no trace {trace!r}; there are {', '.join(TRACES)}")
    if recorded is None:
        coming, drawn = list(TRACES[trace](seed=seed, days=days, a_day=requests_a_day)), trace
    else:
        coming, drawn = simulation.recorded(_recorded_requests(recorded)), "record"
        days = math.ceil(coming[-1].day)
    served = [serve(name, make(round(budget_gb * GB)), coming) for name, make in CACHES.items()]
    if as_json:
        emit(served)
        return
    rows = [
        (
            item.cache,
            f"{item.hits:.1%}",
            f"{item.cost_hits:.1%}",
            f"{item.mean_bytes / GB:,.1f} GB",
            f"${item.generated_microusd / 10**6:,.2f}",
        )
        for item in served
    ]
    title = f"{len(coming):,} requests of {drawn} over {days} days; within {budget_gb:g} GB, but for seed and unlimited"
    table(("!cache", ">hits", ">of the cost", ">takes", ">spent on generating"), rows, title=title)
    say(_NOTE)


@group.command()
def concurrency(
    seed: Seed = 1,
    param: Param = None,
    as_json: AsJson = False,
) -> None:
    """Let five controllers steer 28 kinds of server: the share of useful work that each loses on the best limit."""
    from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
    from reelkeeper.simulation.concurrency import HOURS, steer
    from reelkeeper.simulation.controllers import CONTROLLERS, ours
    from reelkeeper.simulation.servers import SCENARIOS

    def taken(policy: ConcurrencyPolicy) -> None: ...

    policy = parameters.read("simulate concurrency", taken, param or []).get("policy", ConcurrencyPolicy())
    makers = CONTROLLERS | {"ours": lambda scenario: ours(scenario, policy)}
    found = {
        scenario: {name: steer(scenario, make(scenario), seed=seed) for name, make in makers.items()}
        for scenario in SCENARIOS
    }
    if as_json:
        emit([steering for by_controller in found.values() for steering in by_controller.values()])
        return
    rows = [
        (
            scenario.name,
            scenario.best(scenario.speedup_at(HOURS, HOURS)),
            *(f"{steering.regret:.0%} at {steering.last_limit}" for steering in by_controller.values()),
        )
        for scenario, by_controller in found.items()
    ]
    means = [sum(entry[name].regret for entry in found.values()) / len(found) for name in makers]
    rows.append(("mean of all", "", *(f"{mean:.0%}" for mean in means)))
    table(
        ("server", ">best at the end", *(f">{name}" for name in makers)),
        rows,
        title="Work lost in 40 hours, and the last limit",
    )
    say(_NOTE)


_MAX_REQUESTS = 1_000_000
_Row = TypeVar("_Row")


def _recorded_jobs(source: str, limit: int) -> "list[RecordedJob]":
    from reelkeeper.store.jobs import replay

    return _recorded(source, lambda session: replay.jobs_made(session, limit), replay.read_jobs)[-limit:]


def _recorded_requests(source: str) -> "list[RecordedRequest]":
    from reelkeeper.store.jobs import replay

    return _recorded(source, lambda session: replay.requests_answered(session, _MAX_REQUESTS), replay.read_requests)


def _recorded(
    source: str, ask: "Callable[[Session], list[_Row]]", read: Callable[[Iterable[str]], list[_Row]]
) -> list[_Row]:
    """Give what was recorded, from the store or from a file."""
    from reelkeeper.store.core.engine import reading

    if source == "store":
        with store() as engine, reading(engine) as session:
            found = ask(session)
    else:
        try:
            with Path(source).open(encoding="utf-8-sig", newline="") as file:
                found = read(file)
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"--recorded {source}: {error}") from None
    if len(found) < _LEAST:
        raise InputRefused(f"--recorded {source}: {len(found)} recorded, and fewer than {_LEAST} say nothing")
    return found


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}"
