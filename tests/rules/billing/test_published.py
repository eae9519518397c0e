"""The catalogue beside what vendors publish: the lines to change, what to look up, and what is absurd."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from reelkeeper.model.money import Published, PublishedRate
from reelkeeper.rules.billing.catalogue import ModelEntry, VendorPrice
from reelkeeper.rules.billing.published import compare

TODAY = date(2026, 11, 29)
READ = {"source": "vendor.example", "read_on": "2026-11-25"}
LIST = "its list"


def sold(*rates: dict[str, Any], unit: str = "second", **more: Any) -> ModelEntry:  # noqa: ANN401  fields of an entry
    price = {"unit": unit, "rates": rates, **READ}
    return ModelEntry.model_validate({"model": "m", "provider": "fal", "price": price} | more)


def rates_of(entry: ModelEntry | None, provider: str = "fal") -> list[tuple[str | None, bool | None, str]]:
    assert entry is not None
    price = entry.at(provider).price
    assert isinstance(price, VendorPrice)
    return [(rate.resolution, rate.audio, f"{rate.usd:f}") for rate in price.rates]


def says(*rates: tuple[str, str | None, bool | None], **more: Any) -> Published:  # noqa: ANN401  fields of Published
    return Published(LIST, rates=tuple(PublishedRate(Decimal(usd), size, sound) for usd, size, sound in rates), **more)


BOTH = ({"resolution": "720p", "usd": "0.1"}, {"resolution": "1080p", "usd": "0.2"})


@pytest.mark.parametrize(
    ("ours", "theirs", "then"),
    [
        (BOTH, says(("0.1", "720p", None), ("0.2", "1080p", None)), ["0.1", "0.2"]),
        (BOTH, says(("0.12", "720p", None), ("0.2", "1080p", None)), ["0.12", "0.2"]),
        (BOTH, says(("0.3", None, None)), ["0.3", "0.3"]),  # of all clips
        (BOTH, says(("0.3", None, None), ("0.1", "720p", None)), ["0.1", "0.3"]),  # the nearer one goes first
        (BOTH, says(("0.1", None, None), ("0.3", "2160p", None)), ["0.1", "0.2"]),  # the lowest of all sizes
        (BOTH, says(("0.05", "480p", None)), ["0.1", "0.2"]),  # of other clips
        (BOTH, says(("0.0995", "720p", None)), ["0.1", "0.2"]),  # rounded up
        (BOTH, says(("0.1005", "720p", None)), ["0.1005", "0.2"]),  # below the vendor's
        (({"usd": "0.1"},), says(("0.1", "720p", None), ("0.4", "2160p", None)), ["0.4"]),  # for any clip, the dearest
        (
            ({"audio": False, "usd": "0.1"}, {"audio": True, "usd": "0.2"}),
            says(("0.1", None, False), ("0.3", None, True)),
            ["0.1", "0.3"],
        ),
    ],
)
def test_prices_are_those_that_are_published_for_such_clips(
    ours: tuple[dict[str, Any], ...], theirs: Published, then: list[str]
) -> None:
    found = compare(sold(*ours), "fal", [theirs], TODAY)
    assert [usd for *_, usd in rates_of(found.after)] == then
    assert found.differs == (then != [rate["usd"] for rate in ours])
    price = found.after and found.after.price
    assert isinstance(price, VendorPrice)
    assert (price.source, price.read_on) == ((LIST, TODAY) if found.differs else ("vendor.example", date(2026, 11, 25)))


@pytest.mark.parametrize("usd", ["0", "-0.1", "0.0099", "1.01"])
def test_an_absurd_price_is_a_warning_and_no_line(usd: str) -> None:
    found = compare(sold({"usd": "0.1"}), "fal", [says((usd, None, None))], TODAY)
    assert (found.differs, len(found.warnings)) == (False, 1)
    for edge in ("0.01", "1"):
        assert compare(sold({"usd": "0.1"}), "fal", [says((edge, None, None))], TODAY).differs


def test_a_base_price_of_several_rates_is_looked_up_only_where_none_has_it() -> None:
    entry = sold(*BOTH)
    same, other = (compare(entry, "fal", [says((usd, None, None), is_base=True)], TODAY) for usd in ("0.2", "0.25"))
    assert (same.differs, other.differs) == (False, True)
    assert (other.after, len(other.unclear)) == (entry, 1)


def test_another_unit_is_a_warning_and_so_is_a_flat_price() -> None:
    of_clips = compare(sold({"usd": "0.1"}), "fal", [says(("1", None, None), unit="clip")], TODAY)
    flat = ModelEntry.model_validate({"model": "m", "provider": "fal", "price": {"base_usd": "0.5"}})
    for found in (of_clips, compare(flat, "fal", [says(("1", None, None))], TODAY)):
        assert (found.differs, len(found.warnings)) == (False, 1)


def test_a_price_that_is_sold_below_cost_then_is_looked_up() -> None:
    found = compare(sold({"usd": "0.1", "sold_usd": "0.15"}), "fal", [says(("0.2", None, None))], TODAY)
    assert (found.after, found.differs, len(found.unclear)) == (found.before, True, 1)


def test_limits_lose_what_the_vendor_does_not_make_and_get_no_more() -> None:
    limits = {"seconds": [4, 6, 8], "resolutions": ["720p", "1080p"], "audio": "choice"}
    theirs = Published(
        LIST, seconds=(Decimal(4), Decimal(8), Decimal(12)), resolutions=("720p",), aspects=("16:9",), has_sound=False
    )
    after = compare(sold({"usd": "0.1"}, limits=limits), "fal", [theirs], TODAY).after
    assert after is not None
    assert (after.limits.seconds, after.limits.resolutions) == ((Decimal(4), Decimal(8)), ("720p",))
    assert (after.limits.aspects, after.limits.audio) == (("16:9",), "never")
    most = compare(sold({"usd": "0.1"}, limits={"most_seconds": 20, "aspects": ["16:9"]}), "fal", [theirs], TODAY).after
    assert most is not None
    assert (most.limits.most_seconds, most.limits.seconds) == (Decimal(12), ())
    assert not compare(after, "fal", [theirs], TODAY).differs


def test_a_model_that_ended_goes_and_one_that_will_end_is_a_warning() -> None:
    entry = sold({"usd": "0.1"}, offers=[{"provider": "openrouter", "price": sold({"usd": "0.2"}).price}])
    gone = Published(LIST, is_listed=False)
    without = compare(entry, "openrouter", [gone], TODAY)
    assert without.after == entry.model_copy(update={"offers": ()})
    first = compare(entry, "fal", [gone], TODAY)
    assert (first.after, len(first.unclear)) == (entry, 1)
    for day, (is_gone, warned) in {TODAY: (True, 0), date(2026, 12, 24): (False, 1)}.items():
        found = compare(sold({"usd": "0.1"}), "fal", [Published(LIST, ends_on=day)], TODAY)
        assert (found.after is None, found.differs, len(found.warnings)) == (is_gone, is_gone, warned)


def test_an_offer_is_changed_alone_and_the_first_list_goes_before_the_second() -> None:
    entry = sold({"usd": "0.1"}, offers=[{"provider": "openrouter", "price": sold({"usd": "0.2"}).price}])
    lists = [says(("0.25", None, None)), says(("0.3", None, None))]
    found = compare(entry, "openrouter", lists, TODAY)
    assert (rates_of(found.after), rates_of(found.after, "openrouter")) == (
        [(None, None, "0.1")],
        [(None, None, "0.25")],
    )
    assert found.after is not None
    assert found.after.offers[0].limits is None
