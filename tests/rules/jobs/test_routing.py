"""Which offer gets a job: compared with an exhaustive search that was written apart from the rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkeeper.rules.jobs.routing import Offered, Reason, Record, RoutingPolicy, choose
from tests.rules.jobs.offers import exhaustive

NAMES = ("fal", "replicate", "runway", "openai", "comfyui", "http")
records = st.builds(Record, *[st.integers(0, most).map(float) for most in (200, 100, 200, 900)])
offers = st.lists(
    st.builds(
        Offered,
        st.just(""),
        st.one_of(st.integers(1, 12), st.integers(1, 4_800_000)),  # often equal
        records,
        is_healthy=st.booleans(),
        has_budget=st.booleans(),
        places=st.none() | st.integers(1, 8),
        ahead=st.integers(0, 60),
        job_seconds=st.integers(1, 400).map(float),
        held_seconds=st.sampled_from([0.0, 0.0, 90.0, 3_600.0]),
        seconds_between=st.sampled_from([0.0, 0.0, 6.0]),
    ),
    max_size=len(NAMES),
).map(lambda found: [offer._replace(provider=name) for name, offer in zip(NAMES, found, strict=False)])
policies = st.builds(
    RoutingPolicy, rule=st.sampled_from(["cheapest", "first"]), wait_limit_seconds=st.none() | st.integers(0, 2_000)
)


@given(offers, policies)
def test_the_chosen_offer_is_the_one_that_an_exhaustive_comparison_finds(
    found: list[Offered], policy: RoutingPolicy
) -> None:
    choice = choose(found, policy)
    assert choice.provider == exhaustive(found, policy)
    assert [verdict.provider for verdict in choice.verdicts] == [offer.provider for offer in found]
    chosen = [verdict.provider for verdict in choice.verdicts if verdict.reason is Reason.CHOSEN]
    assert chosen == ([choice.provider] if choice.provider else [])


@pytest.mark.long("10,000 choices, each beside an exhaustive search")
@given(offers, policies)
@settings(max_examples=10_000)
def test_ten_thousand_choices_are_those_of_an_exhaustive_comparison(
    found: list[Offered], policy: RoutingPolicy
) -> None:
    assert choose(found, policy).provider == exhaustive(found, policy)


def test_a_vendor_that_is_held_or_spaces_its_jobs_begins_them_later() -> None:
    cheap, dear = Offered("fal", 1, ahead=9), Offered("runway", 2)
    asked = cheap, cheap._replace(held_seconds=700.0), cheap._replace(seconds_between=70.0)
    found = [choose([offer, dear], RoutingPolicy()) for offer in asked]
    assert [choice.provider for choice in found] == ["fal", "runway", "runway"]
    assert [choice.verdicts[0].wait_seconds for choice in found] == [0, 700, 630]


@given(offers, policies)
def test_each_verdict_says_what_would_have_to_change(found: list[Offered], policy: RoutingPolicy) -> None:
    for offer, verdict in zip(found, choose(found, policy).verdicts, strict=True):
        assert (verdict.reason is Reason.UNWELL) == (not offer.is_healthy)
        if verdict.reason is Reason.BUDGET:
            assert not offer.has_budget
        if verdict.reason in {Reason.DEARER, Reason.LATER}:
            assert (verdict.reason is Reason.DEARER) == (policy.rule == "cheapest")


def test_a_vendor_that_charges_for_what_it_does_not_deliver_loses_its_lead_slowly() -> None:
    record, cheap, dear = Record(), 300_000, 400_000
    lost = 0
    while choose([Offered("runway", cheap, record), Offered("fal", dear)], RoutingPolicy()).provider == "runway":
        record, lost = record.after(is_delivered=False), lost + 1
    assert lost == 7  # a third of the twenty that are presumed, and a bit
    kept = 0
    while choose([Offered("runway", cheap, record), Offered("fal", dear)], RoutingPolicy()).provider == "fal":
        record, kept = record.after(is_delivered=True), kept + 1
    assert kept <= 2
