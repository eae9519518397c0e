"""How `tune_concurrency` uses jobs: which count, the idle server's time, the saved state, and the explanation."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.attempts import give_up_error
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.lanes import Lane
from reelkeeper.rules.jobs.steering import (
    Lanes,
    Steered,
    Tuned,
    explain,
    learn,
    remember,
    since,
    since_by_lane,
    tune,
    tune_lanes,
)
from tests.jobs import NOON, at

POLICY, BOOK = ConcurrencyPolicy(), PriceBook()


def job(took: float = 150.0, concurrency: float | None = 4.0, **values: Any) -> FinishedJob:  # noqa: ANN401  fields of Ended
    begun = NOON - timedelta(seconds=took)
    finished_job = FinishedJob("free", "svd", JobState.SUCCEEDED, begun, NOON, begun, complexity=1.0)
    return finished_job._replace(
        **{"processing_seconds": took, "concurrency": concurrency, "cost_microusd": 8_000, **values}
    )


def step(jobs: list[FinishedJob], limit: int = 4, **kept: Any) -> Tuned:  # noqa: ANN401  fields of Steered
    return tune("", Steered(limit=limit, **kept), jobs, BOOK, POLICY, at(15))


def test_only_jobs_with_a_known_concurrency_count() -> None:
    left_out = [
        job(concurrency=None),
        job(processing_seconds=None),
        job(state=JobState.DEAD),
        job(started_at=None),
        job(is_follower=True),
    ]
    assert len(step([job()] * 12 + left_out).finished) == 12


CROWDED = give_up_error(5, "the provider reports it as failed: out of memory", by_generator=True)


def dead(error: str = CROWDED, **values: Any) -> FinishedJob:  # noqa: ANN401  fields of FinishedJob
    return job(state=JobState.DEAD, error=error, processing_seconds=None, attempts=5, **values)


def test_a_server_that_fails_jobs_when_it_is_crowded_does_not_look_fast() -> None:
    calm = step([job(concurrency=16.0)] * 60, limit=16).steered
    crowded = [job(concurrency=32.0, attempts=3), dead(concurrency=32.0)] * 30  # each attempt as quick as alone
    tuned = tune("", calm.model_copy(update={"limit": 32}), crowded, BOOK, POLICY, at(30))
    assert (tuned.step.limit, tuned.step.reason) == (16, "worse_than_lower")
    assert explain(tuned, POLICY) == snapshot(
        "The limit goes from 32 to 16. Throughput was higher at a lower limit. 30 jobs ended with a video, by 240 attempts, with 32.0 at once; each took 1.00 times as long as alone, and cost $0.0080 of at most $0.0200. At 16 at once the model expects the work of 15.9 idle servers, at $0.0080 a job."
    )


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_a_server_that_fails_at_random_is_not_slowed_down(share: float) -> None:
    draw = random.Random(1)
    steered = Steered(limit=8)
    for run in range(20):
        attempts = [next(n for n in range(1, 99) if draw.random() >= share) for _ in range(60)]
        jobs = [
            job(concurrency=float(steered.limit), attempts=min(n, 5)) if n <= 5 else dead(concurrency=8.0)
            for n in attempts
        ]
        steered = tune("", steered, jobs, BOOK, POLICY, at(15 * run)).steered
    assert steered.limit >= 32


@pytest.mark.parametrize(
    "error",
    [
        "the provider refuses it: content policy",
        "the provider answered 422: a face",
        "no input image 'abc'",
        "result unknown for 24 hours: the provider gave no complete answer",
        give_up_error(5, "the bucket answered 503", by_generator=False),
        None,
    ],
)
def test_failures_that_say_nothing_about_the_server_do_not_count(error: str | None) -> None:
    jobs = [job()] * 20
    with_failures = [*jobs, *[job(state=JobState.DEAD, error=error, processing_seconds=None)] * 40]
    cancelled = [*jobs, *[job(state=JobState.CANCELLED, error="cancelled by its user")] * 40]
    assert step(with_failures) == step(cancelled) == step(jobs)


@pytest.mark.parametrize("varied", [False, True])
def test_a_flat_price_over_the_ceiling_is_no_reason_to_run_fewer(varied: bool) -> None:
    steered = Steered(limit=8)
    for run in range(12):
        sizes = [1 + 0.1 * (n % 5) if varied else 1.0 for n in range(24)]
        jobs = [job(150 * size, concurrency=float(steered.limit), cost_microusd=350_000) for size in sizes]
        tuned = tune("", steered, jobs, BOOK, POLICY, at(15 * run))
        assert tuned.step.limit > steered.limit or tuned.step.limit >= 20
        steered = tuned.steered
    assert tuned.step.reason == "dear_at_any_limit"


@pytest.mark.parametrize("most_at_once", [4, 1000])
def test_the_price_of_a_clip_never_changes_a_limit(most_at_once: int) -> None:
    price = {"unit": "second", "rates": [{"usd": "0.07"}], "source": "a price list", "read_on": "2026-11-25"}
    book = PriceBook.model_validate({"models": [{"model": "veo", "price": price}]})
    limits = dict[int, list[int]]()
    for cost_microusd in (70, 70_000):  # a second: five seconds for $0.35
        steered, draw = Steered(limit=8), random.Random(1)
        for run in range(12):
            slower = max(1.0, steered.limit / most_at_once)  # the vendor makes so many, and the others wait
            jobs = [
                job(
                    30 * seconds * slower * draw.uniform(0.9, 1.1),  # of which the estimate knows nothing
                    float(steered.limit),
                    cost_microusd=cost_microusd * seconds,
                    model="veo",
                )
                for seconds in (4, 5, 6) * 4
            ]
            tuned = tune("", steered, jobs, book, POLICY, at(15 * run))
            steered = tuned.steered
            limits.setdefault(cost_microusd, []).append(steered.limit)
    cheap, dear = limits.values()
    assert cheap == dear
    assert min(dear) >= 8
    assert "$" not in explain(tuned, POLICY)


def test_two_models_at_flat_prices_are_no_price_that_grows_with_time() -> None:
    jobs = [
        job(60, concurrency=8.0, model="quick", cost_microusd=1_000),
        job(400, concurrency=8.0, model="slow", cost_microusd=35_000),
        job(66, concurrency=8.0, model="quick", cost_microusd=1_000),
        job(440, concurrency=8.0, model="slow", cost_microusd=35_000),
    ] * 10
    steered = step(jobs, limit=8).steered
    for run in range(5):
        steered = tune("", steered, jobs, BOOK, ConcurrencyPolicy(cost_ceiling_microusd=15_000), at(15 * run)).steered
        assert steered.limit >= 8


def test_a_limit_at_which_nothing_ends_is_left_for_a_lower_one() -> None:
    long_since, lately = [JobAtWork(at(-60), 150.0)] * 30, [JobAtWork(at(13), 150.0)] * 30
    tuned = tune("", Steered(limit=30, stepped_at=NOON), [], BOOK, POLICY, at(30), long_since)
    assert (tuned.step.limit, tuned.step.reason) == (15, "nothing_ends")
    assert (tuned.steered.limit, tuned.steered.stepped_at) == (15, at(30))
    assert explain(tuned, POLICY) == snapshot(
        "The limit goes from 30 to 15. Hardly any job ends with a video at this limit, so a lower one is tried. 0 jobs ended; 30 jobs at work."
    )
    for at_work in (lately, [], long_since[:10], [JobAtWork(at(-60), 3600.0)] * 30):
        kept = tune("", Steered(limit=30, stepped_at=NOON), [], BOOK, POLICY, at(15), at_work)
        assert (kept.step.limit, kept.step.reason) == (30, "too_few_jobs")


def test_a_server_on_which_every_job_fails_is_tried_with_fewer() -> None:
    tuned = step([dead(concurrency=8.0)] * 20, limit=8)
    assert tuned.step.limit < 8
    assert tuned.step.reason == "nothing_ends"
    assert explain(tuned, POLICY) == snapshot(
        "The limit goes from 8 to 4. Hardly any job ends with a video at this limit, so a lower one is tried. 0 jobs ended with a video, by 100 attempts; 0 jobs at work."
    )


def test_a_run_takes_as_many_steps_as_jobs_ended_for() -> None:
    few, many = (step([job()] * count).step.limit for count in (10, 100))
    assert (few, many) == (6, 8)  # never more than twice what ran at once


def test_state_stored_by_an_older_version_still_loads() -> None:
    sums = [1.0, 2.0, 3.0, 4.0, 5.0]
    old = {
        "limit": 7,
        "memory": [sums, sums, [10.0, 2.0], [[5, 1.9, 30.0]]],
        "alone": {"svd": [1.5]},
        "stepped_at": NOON.isoformat(),
    }
    kept = Steered.model_validate(old)
    assert (kept.limit, kept.alone, kept.stepped_at) == (7, {"svd": (1.5,)}, NOON)
    assert tune("", kept, [job()] * 20, BOOK, POLICY, at(15)).step.limit == 8


def lanes(before: Lanes, *jobs: FinishedJob, policy: ConcurrencyPolicy = POLICY, **more: Any) -> dict[str, Tuned]:  # noqa: ANN401  what tune_lanes takes
    return {tuned.lane: tuned for tuned in tune_lanes(before, jobs, BOOK, policy, at(15), **more)}


def of(lane: str, count: int = 20, **values: Any) -> list[FinishedJob]:  # noqa: ANN401  fields of FinishedJob
    return [job(lane=lane, **values)] * count


def test_each_provider_has_a_limit_of_its_own_whatever_the_others_do() -> None:
    idle = Steered(limit=8, stepped_at=NOON)
    before = Lanes(limit=40, lanes={"fal": Steered(limit=16), "ltx": Steered(limit=16), "idle": idle})
    crowded = of("fal", 60, state=JobState.DEAD, error=CROWDED, processing_seconds=None, concurrency=16.0)
    calm = of("ltx", 60, concurrency=16.0)
    both = lanes(before, *crowded, *calm)
    alone = {name: lanes(before, *jobs)[name] for name, jobs in (("fal", crowded), ("ltx", calm))}
    assert {name: both[name] for name in alone} == alone
    assert both["fal"].step.limit < 16 < both["ltx"].step.limit
    assert (both["idle"].step.limit, both["idle"].step.reason) == (8, "too_few_jobs")
    after = remember(list(both.values()))
    assert after.limit == sum(tuned.step.limit for tuned in both.values())
    assert {name: steered.limit for name, steered in after.lanes.items()} == {
        name: tuned.step.limit for name, tuned in both.items()
    }
    assert explain(both["fal"], POLICY) == snapshot(
        "The limit of provider fal goes from 16 to 8. Hardly any job ends with a video at this limit, so a lower one is tried. 0 jobs ended with a video, by 60 attempts; 0 jobs at work."
    )


def test_jobs_at_work_count_in_their_own_lane() -> None:
    stuck = [JobAtWork(at(-60), 150.0, "fal")] * 30
    idle = Steered(limit=30, stepped_at=NOON)
    tuned = lanes(Lanes(limit=60, lanes={"fal": Steered(limit=30), "ltx": idle}), at_work=stuck)
    assert [(name, of_lane.step.reason) for name, of_lane in tuned.items()] == [
        ("fal", "nothing_ends"),
        ("ltx", "too_few_jobs"),
    ]


def test_a_lane_grows_no_further_than_the_cap_of_its_provider() -> None:
    before = Lanes(limit=16, lanes={"fal": Steered(limit=8), "ltx": Steered(limit=8)})
    policy = POLICY.model_copy(update={"caps": (Cap(scope="provider:fal", jobs=5), Cap(scope="provider:*", jobs=9))})
    jobs = [*of("fal", 90, concurrency=8.0), *of("ltx", 90, concurrency=8.0)]
    assert [tuned.step.limit for tuned in lanes(before, *jobs, policy=policy).values()] == [5, 9]
    assert [tuned.step.limit for tuned in lanes(before, *jobs).values()] == [16, 16]


def test_a_lane_grows_by_one_beyond_what_its_vendor_takes_and_no_further() -> None:
    takes = {"fal": Lane(limit=5), "runway": Lane(gap_seconds=60.0), "": Lane(limit=2)}
    before = Lanes(limit=8, lanes={name: Steered(limit=12) for name in ("fal", "runway", "ltx")})
    busy = [job for name in ("fal", "runway", "ltx") for job in of(name, 40, concurrency=12.0)]
    tuned = lanes(before, *busy, ways=takes)
    assert tuned["fal"].step.limit == 6
    assert tuned["runway"].step.limit == 4  # they take 150 s each
    assert tuned["ltx"].step.limit > 6


def test_a_lane_starts_from_the_common_state_of_an_older_version() -> None:
    one_limit = tune("", Steered(limit=8), [job()] * 20, BOOK, POLICY, NOON).steered
    before = Lanes.model_validate(one_limit.model_dump(mode="json"))
    assert before == Lanes(limit=one_limit.limit, lanes={"": one_limit})
    assert since_by_lane(before, at(15)) == ({"": NOON}, NOON)
    tuned = lanes(before, *of("fal"))
    assert tuned.keys() == {"fal"}
    assert tuned["fal"] == tune("fal", one_limit, of("fal"), BOOK, POLICY, at(15))
    assert lanes(Lanes(limit=8)).keys() == {""}


def test_cache_hits_and_followers_make_no_lane() -> None:
    answered = [*of("", 5, started_at=None), *of("", 5, is_follower=True)]
    assert lanes(Lanes(limit=8), *of("fal"), *answered).keys() == {"fal"}


def test_a_lane_without_jobs_for_a_month_is_forgotten() -> None:
    ages = {"used": 29, "left": 31}
    before = Lanes(limit=24, lanes={name: Steered(limit=8, stepped_at=at(-1440 * age)) for name, age in ages.items()})
    assert lanes(before).keys() == {"used"}
    assert lanes(before, *of("left")).keys() == {"used", "left"}


def test_a_new_lane_uses_the_jobs_of_one_day() -> None:
    known, otherwise = since_by_lane(Lanes(limit=8, lanes={"fal": Steered(limit=8, stepped_at=NOON)}), at(15))
    assert (known, otherwise) == ({"fal": NOON}, at(15) - timedelta(days=1))


def test_the_estimate_of_an_idle_server_is_the_prior_until_jobs_have_run_alone() -> None:
    assert step([job()]).finished[0].estimate_seconds == 150  # 120 s and 30 s for one unit
    four_alone = [job(75, concurrency=1.0)] * 4
    assert step([*four_alone, job()]).finished[-1].estimate_seconds == 150
    assert step([*four_alone * 2, job()]).finished[-1].estimate_seconds == 75
    assert step([*four_alone * 2, job(model="other")]).finished[-1].estimate_seconds == 150


def test_concurrent_jobs_never_change_the_estimate_of_an_idle_server() -> None:
    assert learn({}, [job(900, concurrency=40.0)] * 100) == {}
    assert [len(ratios) for ratios in learn({}, [job(concurrency=1.0)] * 100).values()] == [32]


def test_an_unknown_cost_is_that_of_the_price_book() -> None:
    (known, unknown) = step([job(cost_microusd=0), job(cost_microusd=None)]).finished
    assert (known.cost_microusd, unknown.cost_microusd) == (0, 15_000)


def test_too_few_jobs_are_left_for_the_next_step() -> None:
    tuned = step([job()] * 9, stepped_at=NOON)
    assert (tuned.step.limit, tuned.step.reason, tuned.steered.stepped_at) == (4, "too_few_jobs", NOON)
    assert explain(tuned, POLICY) == snapshot(
        "The limit stays at 4. Too few jobs ended to decide: 9 jobs, and 10 are needed."
    )
    stepped = step([job()] * 10, stepped_at=NOON)
    assert (stepped.step.limit, stepped.steered.stepped_at) == (6, at(15))
    assert since(stepped.steered, at(30)) == at(15)
    assert (
        since(Steered(limit=4), NOON) == since(Steered(limit=4, stepped_at=at(-9999)), NOON) == NOON - timedelta(days=1)
    )


def test_a_limit_that_began_too_high_is_left_though_it_was_never_known_better() -> None:
    steered, limit = Steered(limit=100), 100
    for _ in range(30):
        slowdown = 1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)  # a server whose peak is at 35
        tuned = tune("", steered, [job(150 * slowdown, concurrency=float(limit))] * 20, BOOK, POLICY, NOON)
        steered, limit = tuned.steered, tuned.step.limit
    assert 20 <= limit <= 40


@pytest.mark.parametrize("wrong", [0.1, 3.0])
def test_a_prior_that_is_wrong_does_not_lead_past_the_peak(wrong: float) -> None:
    steered, limit = Steered(limit=8), 8
    for _ in range(60):
        slowdown = 1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)
        tuned = tune("", steered, [job(150 * wrong * slowdown, concurrency=float(limit))] * 20, BOOK, POLICY, NOON)
        steered, limit = tuned.steered, tuned.step.limit
    best, here = (
        35 / (1 + 0.03 * 34 + 0.0008 * 35 * 34),
        limit / (1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)),
    )
    assert here > 0.85 * best


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(1, 300)), min_size=10, max_size=30))
def test_the_state_survives_the_store(jobs: list[tuple[float, float]]) -> None:
    steered = step([job(took, concurrency=n) for took, n in jobs]).steered
    assert Steered.model_validate(steered.model_dump(mode="json")) == steered
    assert Steered.model_validate_json(steered.model_dump_json()) == steered
    assert Steered.model_validate({"limit": 3, "later_version": 1}).limit == 3


def test_a_step_is_explained_with_its_figures() -> None:
    text = explain(step([job(300, concurrency=4.0)] * 20), POLICY)
    assert text == snapshot(
        "The limit goes from 4 to 8. A higher limit increases throughput. 20 jobs ended, with 4.0 at once; each took 2.00 times as long as alone, and cost $0.0080 of at most $0.0200. At 8 at once the model expects the work of 5.4 idle servers, at $0.0059 a job."
    )
    dear = step([job(600, cost_microusd=40_000)] * 20)
    assert dear.step.limit == 1
    assert explain(dear, POLICY) == snapshot(
        "The limit goes from 4 to 1. A higher limit would raise the average cost of a job above its ceiling. 20 jobs ended, with 4.0 at once; each took 4.00 times as long as alone, and cost $0.0400 of at most $0.0200. At 1 at once the model expects the work of 1.0 idle servers, at $0.0100 a job."
    )
