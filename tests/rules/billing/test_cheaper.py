"""Cheaper ways to make the clips that users requested, and what was paid for those made again."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from reelkeeper.model.jobs import Repeated
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.billing.cheaper import Cheaper, EqualRequests, Repeat, Spent, by_cause, cheaper
from reelkeeper.rules.billing.quote import PriceBook

READ = {"source": "a list", "read_on": date(2026, 11, 1)}


def price(usd: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  any field
    return {"unit": "second", "rates": [{"usd": usd}], **READ, **more}


def book(**more: Any) -> PriceBook:  # noqa: ANN401  any field
    second = {"provider": "runway", "price": price("0.06"), "limits": {"seconds": [5]}}
    entry = {"model": "veo", "provider": "fal", "price": price("0.10"), "offers": [second], **more}
    return PriceBook.model_validate({"models": [entry]})


def asked(provider: str | None = "fal", jobs: int = 1, **request: Any) -> EqualRequests:  # noqa: ANN401  any field
    whole = {"prompt": "-", "model": "veo", "duration_seconds": 5, **request}
    return EqualRequests(GenerationRequest.model_validate(whole), provider, jobs)


def test_the_clips_that_another_provider_can_make_are_priced_there() -> None:
    ten_seconds = asked(jobs=9, duration_seconds=10)  # runway makes five alone
    assert cheaper([asked(jobs=3), ten_seconds], book()) == [Cheaper("veo", "runway", 3, Decimal("0.60"))]


def test_a_way_that_costs_more_is_left_out_and_dearer_clips_reduce_its_saving() -> None:
    assert cheaper([asked("runway", jobs=3)], book()) == []
    dear_start = book(offers=[{"provider": "runway", "price": price("0.06", image_usd="0.50")}])
    with_image = asked(jobs=1, image_sha256="0" * 64)
    assert cheaper([asked(jobs=2), with_image], dear_start) == [Cheaper("veo", "runway", 3, Decimal("0.10"))]
    assert cheaper([asked(jobs=1), with_image], dear_start) == []


def test_a_clip_with_sound_left_open_could_be_made_without() -> None:
    rates = {"unit": "second", "rates": [{"usd": "0.10", "audio": False}, {"usd": "0.15", "audio": True}], **READ}
    of_sound = book(price=rates, limits={"audio": "choice"}, offers=[])
    assert cheaper([asked(jobs=4), asked(jobs=9, audio=True)], of_sound) == [Cheaper("veo", None, 4, Decimal("1.00"))]


def test_flat_prices_and_models_no_longer_sold_are_left_out() -> None:
    flat = PriceBook.model_validate({"models": [{"model": "veo", "price": {"base_usd": "1"}}]})
    assert cheaper([asked(), asked(model="gone")], flat) == []


def test_the_way_that_saves_most_comes_first_and_one_that_saves_nothing_is_left_out() -> None:
    equal = {"provider": "replicate", "price": price("0.10")}
    way = {"provider": "runway", "price": price("0.06")}
    cheapest = {"provider": "openai", "price": price("0.02")}
    ways = book(offers=[equal, way, cheapest])
    assert [found.provider for found in cheaper([asked()], ways)] == ["openai", "runway"]
    assert [found.provider for found in cheaper([asked("replicate")], ways)] == ["openai", "runway"]


def test_a_user_who_asks_again_within_an_hour_has_sent_one_request_twice() -> None:
    hour = timedelta(hours=1)
    jobs = [
        Repeated(is_same_entry=True, after=hour, microusd=1),
        Repeated(is_same_entry=False, after=hour, microusd=20),
        Repeated(is_same_entry=True, after=hour + timedelta(seconds=1), microusd=300),
        Repeated(is_same_entry=True, after=None, microusd=4_000),  # of another user
        Repeated(is_same_entry=False, after=None, microusd=50_000),
    ]
    expected = {Repeat.RETRIED: Spent(2, 21), Repeat.AGAIN: Spent(2, 4_300), Repeat.NOT_SHARED: Spent(1, 50_000)}
    assert by_cause(jobs) == expected
    assert by_cause([]) == dict.fromkeys(Repeat, Spent(0, 0))
