"""What a model can make, its vendor's cost, and our price: by its rates, never below cost."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.errors import ModelRefused, PolicyRefused
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.core.policy_document import read
from reelkeeper.rules.billing.catalogue import (
    Clip,
    JobPrice,
    ModelEntry,
    ModelLimits,
    Rate,
    Unit,
    VendorPrice,
    clip_of,
)
from reelkeeper.rules.billing.quote import JobSpec, PriceBook, quote
from reelkeeper.rules.core.earlier_policies import earlier
from reelkeeper.rules.jobs.routing import RoutingPolicy
from reelkeeper.rules.policies import Policies, parse
from tests.marks import marked

READ = {"source": "a price list", "read_on": date(2026, 11, 25)}


def price(*rates: Rate, unit: Unit = Unit.SECOND, **more: Any) -> VendorPrice:  # noqa: ANN401  its fields
    return VendorPrice(unit=unit, rates=rates or (Rate(usd=Decimal("0.40")),), **READ, **more)


def book(vendor_price: VendorPrice | JobPrice | None, margin: int = 0, **limits: Any) -> PriceBook:  # noqa: ANN401  its fields
    entry = ModelEntry(model="m", limits=ModelLimits(**limits), price=vendor_price)
    return PriceBook(models=(entry,), margin_percent=Decimal(margin))


def request(**options: Any) -> GenerationRequest:  # noqa: ANN401  its fields
    return GenerationRequest.model_validate({"model": "m", "prompt": "a fox", **options})


def asked(sold: PriceBook, clip: Clip) -> int:
    return quote(JobSpec(model="m", clip=clip), sold).total_microusd


def test_the_audio_and_the_resolution_decide_the_rate() -> None:
    rates = (
        Rate(resolution="720p", audio=False, usd=Decimal("0.20")),
        Rate(resolution="720p", audio=True, usd=Decimal("0.40")),
        Rate(resolution="2160p", usd=Decimal("0.60")),
    )
    sold = book(price(*rates), audio="choice")
    assert asked(sold, Clip(seconds=Decimal(8), audio=False)) == 1_600_000
    assert asked(sold, Clip(seconds=Decimal(8), audio=True)) == 3_200_000
    assert asked(sold, Clip(seconds=Decimal(8))) == 3_200_000  # nobody said: it has sound
    assert asked(sold, Clip(3840, 2160, Decimal(4), audio=False)) == 2_400_000
    silent = book(price(*rates), audio="never")
    assert asked(silent, Clip(seconds=Decimal(8), audio=None)) == 1_600_000


def test_the_higher_of_two_fitting_rates_applies() -> None:
    sold = book(price(Rate(usd=Decimal("0.10")), Rate(resolution="720p", usd=Decimal("0.30"))))
    assert asked(sold, Clip(seconds=Decimal(10))) == 3_000_000
    assert asked(sold, Clip(1920, 1080, Decimal(10))) == 1_000_000


@pytest.mark.parametrize(
    ("vendor_price", "clip", "microusd"),
    [
        (price(Rate(usd=Decimal("0.5")), unit=Unit.CLIP), Clip(seconds=Decimal(5)), 500_000),
        (price(Rate(usd=Decimal("0.02")), unit=Unit.MEGAPIXEL_SECOND), Clip(1000, 1000, Decimal(6)), 120_000),
        (
            price(Rate(usd=Decimal("0.001"), gpu_seconds=Decimal(40)), unit=Unit.GPU_SECOND),
            Clip(seconds=Decimal(5)),
            200_000,
        ),
        (price(Rate(usd=Decimal("0.2")), minimum_usd=Decimal("0.8")), Clip(seconds=Decimal(2)), 800_000),
        (
            price(Rate(usd=Decimal("0.2")), image_usd=Decimal("0.01")),
            Clip(seconds=Decimal(5), has_image=True),
            1_010_000,
        ),
        (
            price(Rate(usd=Decimal("0.2")), image_usd=Decimal("0.01"), margin_percent=Decimal(25)),
            Clip(seconds=Decimal(5), has_image=True),
            1_262_500,
        ),
        (price(Rate(usd=Decimal("0.2"), sold_usd=Decimal("0.5"))), Clip(seconds=Decimal(5)), 2_500_000),
        (price(margin_percent=Decimal(25)), Clip(seconds=Decimal(5)), 2_500_000),
    ],
)
def test_each_unit_surcharge_and_figure_counts(vendor_price: VendorPrice, clip: Clip, microusd: int) -> None:
    assert asked(book(vendor_price), clip) == microusd


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"rates": [{"usd": 0.4, "sold_usd": 0.3}]},
            snapshot("Value error, sold for 0.3 USD, and the vendor takes 0.4: raise sold_usd"),
        ),
        ({"rates": [{"usd": 1}, {"usd": 2}]}, snapshot("Value error, two rates are for the same resolution and audio")),
        (
            {"unit": "gpu_second"},
            snapshot("Value error, gpu_seconds belongs to each rate of the unit gpu_second, and to no other"),
        ),
        (
            {"rates": [{"usd": 1, "gpu_seconds": 3}]},
            snapshot("Value error, gpu_seconds belongs to each rate of the unit gpu_second, and to no other"),
        ),
        ({"rates": []}, snapshot("Tuple should have at least 1 item after validation, not 0")),
        ({"source": ""}, snapshot("String should have at least 1 character")),
        ({"read_on": None}, snapshot("Input should be a valid date")),
    ],
)
def test_a_price_that_contradicts_itself_is_refused(fields: dict[str, object], said: str) -> None:
    whole = {"unit": "second", "rates": [{"usd": 1}], **READ, **fields}
    with pytest.raises(ValidationError) as refused:
        VendorPrice.model_validate(whole)
    assert refused.value.errors()[0]["msg"] == said


def test_an_error_in_a_price_is_that_of_the_intended_kind() -> None:
    text = "book:\n  models:\n    - {model: m, price: {unit: clip, rates: [{usd: -1}], source: s, read_on: 2026-11-25}}"
    with pytest.raises(PolicyRefused) as refused:
        read(text, "policies.yaml")
    assert str(refused.value) == snapshot("""\
policies.yaml was refused, and nothing was changed:
  book.models.0.price.vendor.rates.0.usd=-1: input should be greater than or equal to 0; `none` switches it off
  book.models.0.price.vendor.rates=[{'usd': -1}]: tuple should have at least 1 item after validation, not 0; `none` switches it off\
""")
    assert "base_usd" not in str(refused.value)


@pytest.mark.parametrize(
    ("limits", "options", "said"),
    [
        (
            {"seconds": [4, 6, 8]},
            {"duration_seconds": 5.0},
            snapshot("model 'm' cannot do this: 5 seconds were asked for, and it makes 4, 6 or 8. Nothing was held"),
        ),
        (
            {"most_seconds": 10},
            {"duration_seconds": 10.5},
            snapshot(
                "model 'm' cannot do this: 10.5 seconds were asked for, and it makes at most 10. Nothing was held"
            ),
        ),
        (
            {"resolutions": ["720p"]},
            {"width": 1920, "height": 1080},
            snapshot(
                "model 'm' cannot do this: 1920x1080 pixels (1080p) were asked for, and it makes 720p. Nothing was held"
            ),
        ),
        (
            {"aspects": ["16:9", "9:16"]},
            {"width": 720},
            snapshot(
                "model 'm' cannot do this: 720:720 was asked for as width to height, and it makes 16:9 or 9:16. Nothing was held"
            ),
        ),
        (
            {"audio": "never"},
            {"audio": True},
            snapshot("model 'm' cannot do this: sound was wanted, and its videos never have it. Nothing was held"),
        ),
        (
            {"audio": "always"},
            {"audio": False},
            snapshot("model 'm' cannot do this: sound was not wanted, and its videos always have it. Nothing was held"),
        ),
        (
            {"image": "never"},
            {"image_sha256": "0" * 64},
            snapshot("model 'm' cannot do this: it takes no image to start from. Nothing was held"),
        ),
        (
            {"image": "always"},
            {},
            snapshot("model 'm' cannot do this: it needs an image to start from. Nothing was held"),
        ),
        (
            {},
            {"parameters": {"generate_audio": True}},
            snapshot(
                "model 'm' cannot do this: parameter 'generate_audio' was set, and it takes none. Nothing was held"
            ),
        ),
        (
            {"parameters": ["style"]},
            {"parameters": {"duration": None}},
            snapshot(
                "model 'm' cannot do this: parameter 'duration' was set, and it takes style alone. Nothing was held"
            ),
        ),
    ],
)
def test_a_request_beyond_a_models_limits_is_refused_with_the_limits(
    limits: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelRefused) as refused:
        book(price(), **limits).require_sold(request(**options))
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        ({"seconds": [4, 6, 8]}, {"duration_seconds": 6.0}),
        ({"resolutions": ["480p"], "aspects": ["16:9"]}, {"width": 854, "height": 480}),
        ({"resolutions": ["720p"], "aspects": ["9:16"]}, {"width": 720, "height": 1280}),
        ({"audio": "choice"}, {"audio": False}),
        ({"parameters": ["style"]}, {"parameters": {"style": "ink"}}),
    ],
)
def test_a_request_within_a_models_limits_is_sold(limits: dict[str, Any], options: dict[str, Any]) -> None:
    book(price(), **limits).require_sold(request(**options))


def test_a_clip_without_a_rate_is_refused() -> None:
    sold = book(price(Rate(resolution="720p", usd=Decimal(1))))
    with pytest.raises(ModelRefused) as refused:
        sold.require_sold(request(width=1920, height=1080))
    assert str(refused.value) == snapshot(
        "model 'm' cannot do this: it has no price for 1080p without sound. Nothing was held"
    )
    with pytest.raises(ModelRefused) as refused:
        asked(sold, Clip(1920, 1080))
    assert marked(refused.value) == snapshot("model 'm' has no price for such a clip")


def test_a_model_without_a_price_is_sold_only_if_the_policy_allows_it() -> None:
    sold = book(price())
    with pytest.raises(ModelRefused) as refused:
        sold.require_sold(request(model="other"))
    assert str(refused.value) == snapshot("model 'other' is not sold here; there are: m. Nothing was held")
    with pytest.raises(ModelRefused) as refused:
        book(None).require_sold(request())
    assert str(refused.value) == snapshot("model 'm' is not sold here; there are: none. Nothing was held")
    PriceBook().require_sold(request())  # none is named: each is sold, as before
    lenient = PriceBook(models=book(None).models, unpriced="sell")
    for model in ("m", "other"):
        lenient.require_sold(request(model=model))
        assert quote(JobSpec(model=model), lenient).total_microusd == 15_000
    strict = PriceBook.model_validate({"models": [{"model": "m", "limits": {"seconds": [4]}}], "unpriced": "sell"})
    with pytest.raises(ModelRefused, match="it makes 4"):
        strict.require_sold(request())  # its limits hold all the same


def test_a_misspelled_limit_is_refused_as_it_would_limit_nothing() -> None:
    with pytest.raises(ValidationError) as refused:
        PriceBook.model_validate({"models": [{"model": "m", "limits": {"second": [4]}}]})
    assert {fault["type"] for fault in refused.value.errors()} == {"extra_forbidden"}


def test_flat_prices_of_earlier_documents_are_read_as_they_were_meant() -> None:
    old = PriceBook.model_validate({"models": [{"model": "dear", "base_usd": 1, "compute_usd": "0.7"}]})
    assert old.models == (ModelEntry(model="dear", price=JobPrice(base_usd=Decimal(1), compute_usd=Decimal("0.7"))),)
    assert old.unpriced == "sell"  # they were
    old.require_sold(request(model="dear", parameters={"style": "ink"}))
    strict = ModelEntry(model="m", price=JobPrice(), limits=ModelLimits(parameters=("style",)))
    assert str(strict.refusal(request(parameters={"n": 1}))) == snapshot(
        "model 'm' cannot do this: parameter 'n' was set, and it takes style alone. Nothing was held"
    )
    assert PriceBook.model_validate_json(old.model_dump_json()) == old
    priced = book(price(), margin=5)
    assert PriceBook.model_validate_json(priced.model_dump_json()) == priced


def test_a_request_that_says_nothing_of_sound_is_the_same_as_before_it_could() -> None:
    assert "audio" not in request().canonical()
    assert request(audio=False).canonical()["audio"] is False


usd = st.decimals(0, 1000, places=9)
clips = st.builds(
    clip_of,
    st.builds(
        request,
        width=st.integers(32, 2048).map(lambda half: 2 * half),
        height=st.integers(32, 2048).map(lambda half: 2 * half),
        duration_seconds=st.floats(0.5, 120),
        audio=st.none() | st.booleans(),
        image_sha256=st.sampled_from([None, "0" * 64]),
    ),
)


@given(
    clips,
    st.sampled_from([Unit.SECOND, Unit.CLIP, Unit.MEGAPIXEL_SECOND]),
    st.lists(st.tuples(st.none() | st.booleans(), usd, st.none() | usd), min_size=1, unique_by=lambda rate: rate[0]),
    st.tuples(usd, usd),
    st.decimals(0, 1000, places=4),
    st.none() | st.decimals(0, 1000, places=4),
    st.integers(0, 10**12),
)
def test_a_quote_is_never_below_what_its_vendor_takes_and_its_parts_sum_to_it(
    clip: Clip,
    unit: Unit,
    rates: list[tuple[bool | None, Decimal, Decimal | None]],
    extras: tuple[Decimal, Decimal],
    margin: Decimal,
    own_margin: Decimal | None,
    size_bytes: int,
) -> None:
    made = [
        Rate(audio=audio, usd=cost, sold_usd=None if more is None else cost + more)
        for audio, cost, more in rates
        if more is None or cost + more <= 10_000
    ]
    vendor = price(*made, unit=unit, minimum_usd=extras[0], image_usd=extras[1], margin_percent=own_margin)
    sold = book(vendor, audio="choice").model_copy(update={"margin_percent": margin})
    heard = clip.audio is not False
    fitting = [rate for rate in made if rate.audio in (None, heard)]
    job = JobSpec(model="m", clip=clip, size_bytes=size_bytes, retention_days=30)
    if not fitting:
        with pytest.raises(ModelRefused):
            quote(job, sold)
        return
    units = {
        Unit.SECOND: Fraction(clip.seconds),
        Unit.CLIP: Fraction(1),
        Unit.MEGAPIXEL_SECOND: Fraction(clip.seconds) * clip.width * clip.height / 10**6,
    }[unit]
    taken = max([*(units * Fraction(rate.usd) for rate in fitting), Fraction(extras[0])])
    taken += Fraction(extras[1]) if clip.has_image else 0
    storage = Fraction(size_bytes, 10**9) * 15_000
    found = quote(job, sold)
    assert found.cost_microusd == ceil(taken * 10**6 + storage)
    assert found.total_microusd >= found.cost_microusd
    parts = (found.base_microusd, found.complexity_microusd, found.storage_microusd, found.margin_microusd)
    assert sum(parts) == found.total_microusd
    assert min(parts) >= 0


@given(st.decimals("0.5", 120, places=3), st.floats(0.1, 600), st.lists(st.integers(1, 60), max_size=5))
def test_a_clip_is_never_charged_at_more_seconds_than_were_asked_for(
    wanted: Decimal, made: float, lengths: list[int]
) -> None:
    limits = ModelLimits(seconds=tuple(map(Decimal, lengths)))
    charged = limits.charged_seconds(wanted, made)
    assert 0 < charged <= wanted
    assert charged == wanted or charged in lengths or charged == ceil(made)


@given(
    clips,
    clips,
    st.sampled_from([Unit.SECOND, Unit.CLIP, Unit.MEGAPIXEL_SECOND]),
    usd,
    usd,
    st.decimals(0, 900, places=4),
)
def test_a_clip_that_came_shorter_is_never_quoted_above_the_one_that_was_asked_for(
    one: Clip, other: Clip, unit: Unit, rate: Decimal, minimum: Decimal, margin: Decimal
) -> None:
    sold = book(price(Rate(usd=rate), unit=unit, minimum_usd=minimum)).model_copy(update={"margin_percent": margin})
    seconds = sorted((one.seconds, other.seconds))
    shorter, longer = (quote(JobSpec(model="m", clip=one._replace(seconds=length)), sold) for length in seconds)
    assert shorter.total_microusd <= longer.total_microusd
    assert shorter.cost_microusd <= longer.cost_microusd


@given(
    costs=st.lists(st.decimals(0, 5, places=3), min_size=1, max_size=4),
    margin=st.integers(0, 200),
    seconds=st.integers(1, 30),
    most_seconds=st.integers(1, 30),
)
def test_a_quote_covers_the_dearest_provider_that_can_make_it_and_is_the_same_wherever_the_job_goes(
    costs: list[Decimal], margin: int, seconds: int, most_seconds: int
) -> None:
    names = ("fal", "runway", "replicate", "openai")[: len(costs)]
    parts = [{"provider": name, "price": price(Rate(usd=cost))} for name, cost in zip(names, costs, strict=True)]
    for part in parts[2:]:
        part["limits"] = ModelLimits(most_seconds=Decimal(most_seconds))
    first, *others = parts
    sold = PriceBook.model_validate(
        {"models": [{"model": "m", **first, "offers": others}], "margin_percent": Decimal(margin)}
    )
    entry, clip = sold.models[0], Clip(seconds=Decimal(seconds))
    able = entry.able_providers(request(duration_seconds=float(seconds)))
    assert able == names if seconds <= most_seconds else names[:2]
    job = JobSpec(model="m", clip=clip, offers=able)
    quotes = {name: quote(job, sold, name) for name in able}
    assert len({given.total_microusd for given in quotes.values()}) == 1
    alone = asked(book(price(Rate(usd=costs[0])), margin), clip)
    stored = quote(JobSpec(model="m", clip=clip), book(price(Rate(usd=Decimal(0))))).cost_microusd
    for name, cost in zip(able, costs, strict=False):
        assert 0 <= quotes[name].cost_microusd - cost * seconds * 10**6 - stored < 1
        assert quotes[name].margin_microusd >= 0
        assert quotes[name].total_microusd >= quotes[name].cost_microusd
    assert quotes["fal"].total_microusd == max(alone, *(given.cost_microusd for given in quotes.values()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"provider": None}, snapshot("Value error, a model with offers names its own provider and price too")),
        ({"price": None}, snapshot("Value error, a model with offers names its own provider and price too")),
        ({"provider": "runway"}, snapshot("Value error, a provider is named twice: runway, runway")),
    ],
)
def test_a_model_with_fallbacks_says_who_makes_it_first_and_at_what_price(wrong: dict[str, object], said: str) -> None:
    whole = {"model": "m", "provider": "fal", "price": price(), "offers": [{"provider": "runway", "price": price()}]}
    assert ModelEntry.model_validate(whole).providers == ("fal", "runway")
    with pytest.raises(ValidationError) as refused:
        ModelEntry.model_validate(whole | wrong)
    assert refused.value.errors()[0]["msg"] == said


def test_a_book_whose_providers_stood_in_order_keeps_that_order() -> None:
    cost = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a list", "read_on": "2026-11-29"}
    entry = {"model": "m", "provider": "fal", "price": cost}
    before = {"book": {"models": [entry | {"fallbacks": [{"provider": "runway", "price": cost}]}]}}
    for found in (parse(before), Policies.model_validate(earlier(before))):
        assert found.book.models[0].providers == ("fal", "runway")
        assert found.routing == RoutingPolicy(rule="first", wait_limit_seconds=None)
    others: list[dict[str, Any]] = [{"book": {"models": [entry | {"fallbacks": []}]}}, {"book": {}}, {}]
    for without in others:
        assert parse(without).routing == RoutingPolicy()
    assert parse(before | {"routing": {"rule": "cheapest"}}).routing.rule == "cheapest"
