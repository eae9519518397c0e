"""Evidence for the rules, on fixed seeds. The figures are of models, and compare policies."""

from itertools import product
from statistics import fmean

import pytest

from bench.simulation import cache, concurrency, queue, servers
from bench.simulation.controllers import ours, vegas
from bench.simulation.traces import TRACES
from reelkeeper.rules.jobs.dispatch import DispatchPolicy

pytestmark = (
    pytest.mark.soak
)  # two minutes of CPU; each change of a rule is held by its own tests, the ratios by bench/

FIFO, OURS = queue.Rules(DispatchPolicy(rule="fifo")), queue.Rules()


def compared(distribution: str, *, seeds: range, count: int, error_sigma: float) -> tuple[float, float, float]:
    """Change of the mean wait, the least of any tier's, and the worst wait, all against first come first served."""
    means, tiers, worst = [], [], []
    for seed in seeds:
        coming = queue.arrivals(distribution, seed=seed, count=count, error_sigma=error_sigma)
        fifo, ours_waits = queue.run(coming, FIFO), queue.run(coming, OURS)
        means.append(ours_waits.mean_seconds / fifo.mean_seconds - 1)
        tiers.append({tier: ours_waits.by_tier[tier] / fifo.by_tier[tier] - 1 for tier in fifo.by_tier})
        worst.append(ours_waits.worst_seconds / fifo.worst_seconds)
    return fmean(means), max(fmean(entry[tier] for entry in tiers) for tier in tiers[0]), max(worst)


def test_a_short_queue_shows_what_order_is_worth() -> None:
    mean, tier, worst = compared("lognormal", seeds=range(1), count=3000, error_sigma=0.3)
    assert mean < -0.2
    assert tier < 0
    assert worst < 2.1


@pytest.mark.parametrize(
    ("distribution", "error_sigma", "least"),
    [
        *(("uniform", 0.0, 0.14), ("exponential", 0.0, 0.25), ("lognormal", 0.0, 0.26), ("bimodal", 0.0, 0.45)),
        *(("uniform", 0.3, 0.10), ("exponential", 0.3, 0.23), ("lognormal", 0.3, 0.25), ("bimodal", 0.3, 0.42)),
        *(("pareto", 0.0, 0.28), ("pareto", 0.3, 0.27)),
    ],
)
def test_the_mean_wait_falls_and_nobody_waits_much_longer_for_it(
    distribution: str, error_sigma: float, least: float
) -> None:
    mean, tier, worst = compared(distribution, seeds=range(4), count=6_000, error_sigma=error_sigma)
    assert -mean >= least
    assert tier <= 0.05  # free users', where all jobs are nearly of one size
    assert worst <= 2.1


def test_the_tail_is_shorter_than_by_size_classes() -> None:
    ratios: list[tuple[float, float, float]] = []
    for distribution, seed in product(queue.COMPLEXITY, range(2)):
        coming = queue.arrivals(distribution, seed=seed, count=6_000, error_sigma=0.3)
        aging, levels = queue.run(coming, OURS), queue.run(coming, queue.POLICIES["levels"])
        ratios.append(
            (
                aging.p95_seconds / levels.p95_seconds,
                aging.p99_seconds / levels.p99_seconds,
                aging.worst_seconds / levels.worst_seconds,
            )
        )
    assert max(map(fmean, zip(*ratios, strict=True))) < 1


def backlog(models: int, seed: int = 1) -> list[queue.Arrival]:
    """960 jobs that all wait, of `models` models."""
    drawn = queue.arrivals("exponential", seed=seed, count=960)
    return [
        arrival._replace(
            job=arrival.job._replace(submitted_at=queue.EPOCH, model=f"m{n * 7919 % models}", user_id=arrival.job.id)
        )
        for n, arrival in enumerate(drawn)
    ]


def test_slots_that_never_idle_beat_batches_that_wait_for_their_last() -> None:
    jobs = backlog(models=1)
    batches = 0.0  # of eight, each waiting for its last job, as `Promise.all` does
    for start in range(0, len(jobs), 8):
        batch = jobs[start : start + 8]
        batches += max(arrival.work_seconds for arrival in batch) + queue.NARROW.loaded_seconds * len(batch) / 8
    assert batches / queue.run(jobs, OURS).makespan_seconds >= 1.3


def test_staying_with_a_model_costs_nothing_where_changing_is_free_and_pays_where_it_is_not() -> None:
    plain = queue.Rules(DispatchPolicy(affinity_seconds=0.0))
    free, dear = list[float](), list[float]()
    for seed in range(1, 4):
        jobs = backlog(models=4, seed=seed)
        for setup_seconds, gains in ((0, free), (120, dear)):
            wandering, staying = (
                queue.run(jobs, rules, setup_seconds=setup_seconds).makespan_seconds for rules in (plain, OURS)
            )
            gains.append(wandering / staying)
    assert fmean(free) == pytest.approx(1, abs=0.01)
    assert fmean(dear) >= 1.25


STEADY = servers.SCENARIOS[:12]


def test_concurrency_is_near_its_best_on_every_kind_of_steady_server() -> None:
    regrets = []
    for scenario in STEADY:
        found = [concurrency.steer(scenario, ours(scenario), seed=seed) for seed in range(5)]
        regrets.append(fmean(steering.regret for steering in found))
        assert max(steering.over_ceiling for steering in found) <= 0.06, scenario.name
        assert max(steering.late_regret for steering in found) <= 0.15, (
            scenario.name
        )  # it has converged, from every start
    assert fmean(regrets) <= 0.05
    assert max(regrets) <= 0.11  # one that collapses and begins at five times its best


@pytest.mark.parametrize(
    "name", ["fails when crowded", "fails at random", "flat price over ceiling", "price over ceiling, grows"]
)
def test_concurrency_is_near_its_best_if_jobs_fail_or_are_expensive(name: str) -> None:
    scenario = next(scenario for scenario in servers.SCENARIOS if scenario.name == name)
    assert fmean(concurrency.steer(scenario, ours(scenario), seed=seed).regret for seed in range(3)) <= 0.12


@pytest.mark.parametrize("name", ["nothing ends over 30", "drops, collapses"])
def test_concurrency_is_soon_back_from_a_limit_at_which_hardly_a_job_ended(name: str) -> None:
    scenario = next(scenario for scenario in servers.SCENARIOS if scenario.name == name)
    assert fmean(concurrency.steer(scenario, ours(scenario), seed=seed).regret for seed in range(3)) <= 0.25


def test_concurrency_follows_servers_that_change_better_than_vegas() -> None:
    changing = servers.SCENARIOS[12:]
    mean = {
        make: fmean(
            concurrency.steer(scenario, make(scenario), seed=seed).regret for scenario in changing for seed in range(3)
        )
        for make in (ours, vegas)
    }
    assert mean[ours] <= 0.14
    assert mean[ours] < mean[vegas]


@pytest.mark.parametrize("trace", sorted(TRACES))
@pytest.mark.parametrize("gigabytes", [10, 50])
def test_no_public_cache_of_the_same_size_leads_by_half_a_point(trace: str, gigabytes: int) -> None:
    coming = list(TRACES[trace](seed=3, days=20))
    saved, *public = (
        cache.serve(name, cache.CACHES[name](gigabytes * cache.GB), coming).cost_hits
        for name in ("ours", "S3-FIFO", "W-TinyLFU", "W-TinyLFU, climbing")
    )
    assert saved >= max(public) - 0.005
