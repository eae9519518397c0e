"""`simulate`: try policies on generated or recorded load, by a virtual clock, and compare them with others."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from reelkeeper.cli import parameters
from reelkeeper.cli.commands.simulate_lifecycle import lifecycle
from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.cli.words import AsJson
from reelkeeper.errors import InputRefused, Misconfigured
from reelkeeper.simulation import MAX_SEEDS, interval

if TYPE_CHECKING:
    from sqlmodel import Session

    from reelkeeper.model.jobs import RecordedJob, RecordedRequest
    from reelkeeper.simulation.queue import Waits

group = typer.Typer(
    no_args_is_help=True,
    help="Try a policy on generated or recorded load, or on the catalogue. Changes nothing.",
)

group.command()(lifecycle)

Seed = Annotated[int, typer.Option(help="Seed of the generated load.")]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        max=MAX_SEEDS,
        help="Repeat with this many seeds, and show means with 95 % intervals; JSON has all results.",
    ),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Set a field of our policy, e.g. policy.oldest_share=0.2. May be repeated.",
    ),
]
Recorded = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|store",
        help="Replay recorded load: `store`, or a CSV file from `reelkeeper jobs export`.",
    ),
]
_NOTE = "This is a model with the same load for every row: it compares policies, and predicts nothing."
_LEAST = 10  # jobs or requests that are needed for a result


@group.command()
def queue(
    distribution: Annotated[
        str, typer.Option(help="Distribution of complexity: uniform, exponential, lognormal, bimodal or pareto.")
    ] = ("lognormal"),
    jobs: Annotated[
        int, typer.Option(min=100, max=100_000, help="Number of jobs to generate, or of the latest recorded ones.")
    ] = 4000,
    slots: Annotated[int, typer.Option(min=1, max=1000, help="Number of jobs that run at once.")] = 8,
    load: Annotated[float, typer.Option(min=0.05, max=2, help="Utilization of the slots, from 0 to 1.")] = 0.85,
    error: Annotated[float, typer.Option(min=0, max=3, help="Standard deviation of ln(estimate / truth).")] = 0.3,
    sizes: Annotated[
        str, typer.Option(help="narrow: jobs take two minutes or more; wide: from ten seconds.")
    ] = "narrow",
    recorded: Recorded = None,
    seed: Seed = 1,
    seeds: Seeds = 1,
    param: Param = None,
    as_json: AsJson = False,
) -> None:
    """Simulate the queue with one stream of jobs, under our rule and others.

    `clairvoyant` is the bound: shortest job first, by the true durations.
    """
    from reelkeeper.operations.core.overrides import Override
    from reelkeeper.rules.core.tiers import Tiers
    from reelkeeper.rules.jobs.dispatch import DispatchPolicy
    from reelkeeper.rules.policies import DEFAULTS
    from reelkeeper.simulation import queue as simulation

    if distribution not in simulation.COMPLEXITY:
        raise Misconfigured(f"no distribution {distribution!r}; choose one of {', '.join(simulation.COMPLEXITY)}")
    if sizes not in simulation.SIZES:
        raise Misconfigured(f"no sizes {sizes!r}; choose one of {', '.join(simulation.SIZES)}")

    def taken(policy: DispatchPolicy, tiers: Annotated[Tiers | None, Override()]) -> None: ...

    given = parameters.read("simulate queue", taken, param or [])
    tiers = DEFAULTS.overridden(tiers=given.get("tiers")).tiers
    ours = simulation.Rules(given.get("policy", DispatchPolicy()), tiers)
    if recorded is None:
        chosen = simulation.SIZES[sizes]
        draws = [
            simulation.arrivals(
                distribution, seed=drawn, count=jobs, slots=slots, load=load, error_sigma=error, sizes=chosen
            )
            for drawn in range(seed, seed + seeds)
        ]
        loaded, what = chosen.loaded_seconds, f"{distribution} complexity and {sizes} sizes, {load:.0%} busy"
    else:
        draws = [simulation.recorded(_recorded_jobs(recorded, jobs))]
        loaded, what = 0.0, "record"

    found = [simulation.compare(coming, ours, slots=slots, loaded_seconds=loaded) for coming in draws]
    if as_json:
        emit(found[0] if len(found) == 1 else found)
        return
    fifo = found[0]["fifo"]
    if len(found) == 1:
        headings = ["!policy", ">mean wait", ">against fifo", ">p50", ">p95", ">p99", ">worst"]
        headings += [f">{tier}" for tier in fifo.by_tier]
        rows = [
            (
                name,
                _minutes(wait.mean_seconds),
                f"{wait.mean_seconds / fifo.mean_seconds - 1:+.0%}" if fifo.mean_seconds else "-",
                *map(_minutes, (wait.p50_seconds, wait.p95_seconds, wait.p99_seconds, wait.worst_seconds)),
                *(_minutes(wait.by_tier[tier]) for tier in fifo.by_tier),
            )
            for name, wait in found[0].items()
        ]
        shown = "waits in minutes"
    else:
        parts = ("mean", "p50", "p95", "p99", "worst")
        headings = ["!policy", *(f">{part}" for part in parts)]
        rows = [
            (
                name,
                *(
                    _spread([_against_fifo(waits, name, f"{part}_seconds") for waits in found], "{:.2f}".format)
                    for part in parts
                ),
            )
            for name in found[0]
        ]
        shown = f"waits relative to first come, first served{_seeds_named(seed, len(found))}"
    title = f"{len(draws[0]):,} jobs of {what}, {slots} slots: {shown}"
    table(headings, rows, title=title)
    say(_NOTE)


@group.command()
def cache(
    budget_gb: Annotated[
        float, typer.Option(min=0.1, max=10_000, help="Size of each cache in GB, except the last two.")
    ] = 10,
    trace: Annotated[
        str, typer.Option(help="Kind of requests: templates, scans, bursts, loops, sessions, fashions or studios.")
    ] = "templates",
    days: Annotated[int, typer.Option(min=1, max=365, help="Number of days.")] = 30,
    requests_a_day: Annotated[int, typer.Option(min=10, max=100_000, help="Requests per day.")] = 3000,
    recorded: Recorded = None,
    seed: Seed = 1,
    seeds: Seeds = 1,
    as_json: AsJson = False,
) -> None:
    """Simulate several caches with one stream of requests: ours, S3-FIFO, W-TinyLFU, LRU, and others.

    `unlimited` is the bound: it keeps everything.
    """
    from reelkeeper.simulation import cache as simulation
    from reelkeeper.simulation.cache import CACHES, GB, serve
    from reelkeeper.simulation.traces import TRACES

    if trace not in TRACES:
        raise Misconfigured(f"no trace {trace!r}; choose one of {', '.join(TRACES)}")
    if recorded is None:
        draws = [
            list(TRACES[trace](seed=drawn, days=days, a_day=requests_a_day)) for drawn in range(seed, seed + seeds)
        ]
    else:
        draws, trace = [simulation.recorded(_recorded_requests(recorded))], "record"
        days = math.ceil(draws[0][-1].day)
    found = [[serve(name, make(round(budget_gb * GB)), coming) for name, make in CACHES.items()] for coming in draws]
    if as_json:
        emit(found[0] if len(found) == 1 else found)
        return
    rows = [
        (
            name,
            _spread([item.hits for item in mine], "{:.1%}".format),
            _spread([item.cost_hits for item in mine], "{:.1%}".format),
            _spread([item.mean_bytes / GB for item in mine], "{:,.1f} GB".format),
            _spread([item.generated_microusd / 10**6 for item in mine], "${:,.2f}".format),
        )
        for name, mine in zip(CACHES, zip(*found, strict=True), strict=True)
    ]
    heading = f"{len(draws[0]):,} requests of {trace} over {days} days{_seeds_named(seed, len(found))}"
    title = f"{heading}; within {budget_gb:g} GB, except seed and unlimited"
    table(("!cache", ">hits", ">of the cost", ">takes", ">spent on generating"), rows, title=title)
    say(_NOTE)


@group.command()
def concurrency(
    seed: Seed = 1,
    seeds: Seeds = 1,
    param: Param = None,
    as_json: AsJson = False,
) -> None:
    """Simulate five controllers on 28 kinds of server, and show the share of useful work that each loses.

    The share is of the bound: the best limit at each time, known in advance.
    """
    from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
    from reelkeeper.simulation.concurrency import HOURS, steer
    from reelkeeper.simulation.controllers import CONTROLLERS, ours
    from reelkeeper.simulation.servers import SCENARIOS

    def taken(policy: ConcurrencyPolicy) -> None: ...

    policy = parameters.read("simulate concurrency", taken, param or []).get("policy", ConcurrencyPolicy())
    makers = CONTROLLERS | {"ours": lambda scenario: ours(scenario, policy)}
    found = {
        scenario: {
            name: [steer(scenario, make(scenario), seed=drawn) for drawn in range(seed, seed + seeds)]
            for name, make in makers.items()
        }
        for scenario in SCENARIOS
    }
    if as_json:
        flat = [
            [of_one[place] for by_controller in found.values() for of_one in by_controller.values()]
            for place in range(seeds)
        ]
        emit(flat[0] if seeds == 1 else flat)
        return
    rows = [
        (
            scenario.name,
            scenario.best(scenario.speedup_at(HOURS, HOURS)),
            *(
                f"{_spread([steering.regret for steering in of_one], '{:.0%}'.format)} at {of_one[0].last_limit}"
                for of_one in by_controller.values()
            ),
        )
        for scenario, by_controller in found.items()
    ]
    means = [
        [fmean(entry[name][place].regret for entry in found.values()) for place in range(seeds)] for name in makers
    ]
    rows.append(("mean of all", "", *(_spread(of_one, "{:.1%}".format) for of_one in means)))
    table(
        ("server", ">best at the end", *(f">{name}" for name in makers)),
        rows,
        title=f"Work lost in 40 hours, and the last limit{_seeds_named(seed, seeds)}",
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
    """Read recorded load from the store or from a file."""
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
        raise InputRefused(f"--recorded {source}: only {len(found)} recorded; at least {_LEAST} are needed")
    return found


def _against_fifo(waits: "dict[str, Waits]", name: str, figure: str) -> float:
    floor: float = getattr(waits["fifo"], figure)
    return getattr(waits[name], figure) / floor if floor else math.nan


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Format a mean, and for several values the half width of its 95 % interval."""
    mean, half = interval(values)
    return shown(mean) if math.isnan(half) else f"{shown(mean)} ± {shown(half).lstrip('+$')}"


def _seeds_named(seed: int, count: int) -> str:
    return "" if count == 1 else f", seeds {seed} to {seed + count - 1}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}"
