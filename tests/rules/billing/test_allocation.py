"""Allocation of the bill: users at list price, the rest to nobody, in total what Cloudflare bills."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reelkeeper.model.money import Charge, Metric, StorageClass, UsageSource, Used
from reelkeeper.rules.billing.allocation import compute_charges, share
from reelkeeper.rules.billing.pricing import InfrequentAccessUsage, StandardUsage, Usage, bill, gb_months
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import GB

BOOK = PriceBook()
MONTH = date(2026, 11, 1)  # of 30 days
AFTER = date(2026, 12, 5)
COLD = StorageClass.INFREQUENT_ACCESS


def on(day: int, metric: Metric, quantity: int, resource: str = "", **more: Any) -> Used:  # noqa: ANN401  whatever a row has
    return Used(date(2026, 11, day), metric, quantity, resource)._replace(**more)


def stored(day: int, gigabytes: int, **more: Any) -> Used:  # noqa: ANN401  whatever a row has
    return on(day, Metric.STORED_BYTES, gigabytes * GB, **more)


def charged(account: Iterable[Used], users: Iterable[Used] = (), today: date = AFTER) -> list[Charge]:
    return list(share(compute_charges(account, BOOK, MONTH, today), users, {"ann": "pro"}, BOOK))


def billed_nanousd(charges: Iterable[Charge]) -> dict[str, int]:
    sums = Counter[str]()
    for charge in charges:
        sums[charge.sku] += charge.billed_nanousd
    return dict(sums)


def test_a_whole_months_charges_sum_to_cloudflares_bill() -> None:
    """12.5 GB all month, 1.2 million writes: 13 - 10 GB-months and one million, 4.545 dollars."""
    account = [on(day, Metric.STORED_BYTES, 12_500_000_000) for day in range(1, 31)]
    account += [on(day, Metric.OPERATIONS, 40_000, "PutObject") for day in range(1, 31)]
    found = billed_nanousd(charged(account))
    assert found == {"r2-storage-standard": 45_000_000, "r2-class-a-standard": 4_500_000_000}


def test_a_day_is_billed_what_it_adds_to_the_months_bill() -> None:
    """11 GB: the allowance of 10 GB-months lasts for 27 days of 30; the 28th begins the eleventh GB-month."""
    charges = charged([stored(day, 11) for day in range(1, 31)])
    assert {charge.list_nanousd for charge in charges} == {5_500_000}  # of 11 GB for a day of 30, at $0.015
    days = [(charge.day.day, charge.billed_nanousd) for charge in charges]
    assert [day for day, nanousd in days if nanousd] == [28]
    assert sum(nanousd for _, nanousd in days) == 15_000_000


def test_a_user_is_charged_at_list_price_and_the_allowance_goes_to_the_residual() -> None:
    (ann, nobody) = charged([stored(1, 3)], [stored(1, 2, user_id="ann")], today=MONTH)
    assert (ann.user_id, ann.tier, ann.consumed_quantity, ann.consumed_unit) == ("ann", "pro", 2 * GB, "Byte-Days")
    assert ann.list_nanousd == ann.billed_nanousd == 1_000_000  # 2 GB for a day of 30, at $0.015
    assert (nobody.user_id, nobody.consumed_quantity) == ("", GB)
    assert (nobody.list_nanousd, nobody.billed_nanousd) == (500_000, -1_000_000)  # all of it was free


def test_jobs_billed_by_the_clip_are_charged_at_cost_and_the_excess_goes_to_the_residual() -> None:
    """On the third day jobs had a flat price still; on the fourth clips cost $3.50, of which 20 cents were too much."""
    account = [on(day, Metric.JOBS, 2, "veo") for day in (3, 4)] + clips(4, 2, 3_500_000)
    users = [row._replace(user_id="ann") for row in [*account[:2], *clips(4, 2, 3_300_000)]]
    found = charged(account, users)
    assert [
        (charge.day.day, charge.service, charge.sku, charge.user_id, charge.billed_nanousd) for charge in found
    ] == [
        (3, "compute", "compute-veo", "ann", 20_000_000),
        (3, "compute", "compute-veo", "", 0),
        (3, "api", "api-veo", "ann", 10_000_000),
        (3, "api", "api-veo", "", 0),
        (4, "api", "clips-veo", "ann", 3_300_000_000),
        (4, "api", "clips-veo", "", 200_000_000),
    ]


def test_a_vendor_that_charges_less_than_the_book_is_listed_at_the_book() -> None:
    """Ann's clip was a fifth cheaper than in the book; bob's a tenth dearer, which is not his loss."""
    made = on(4, Metric.JOB_MICROUSD, 1_900_000, "veo")._replace(provider="fal")
    off = made._replace(metric=Metric.JOB_REBATE_MICROUSD, quantity=100_000)
    anns, bobs = (made._replace(quantity=cost, user_id=user) for user, cost in (("ann", 800_000), ("bob", 1_000_000)))
    found = charged([made, off], [anns, off._replace(quantity=200_000, user_id="ann"), bobs])
    assert [
        (charge.sku, charge.provider, charge.user_id, charge.list_nanousd, charge.billed_nanousd) for charge in found
    ] == [
        ("clips-fal:veo", "fal", "ann", 10**9, 800_000_000),
        ("clips-fal:veo", "fal", "bob", 10**9, 10**9),
        ("clips-fal:veo", "fal", "", 0, 100_000_000),
    ]


def test_a_models_jobs_at_a_flat_price_are_charged_vendor_by_vendor() -> None:
    account = [on(4, Metric.JOBS, count, "veo")._replace(provider=name) for name, count in (("fal", 3), ("http", 1))]
    account += [row._replace(provider="fal") for row in clips(4, 1, 3_500_000)]
    found = {(charge.sku, charge.provider): charge.consumed_quantity for charge in charged(account)}
    assert found == {
        ("compute-fal:veo", "fal"): 2,
        ("api-fal:veo", "fal"): 2,
        ("clips-fal:veo", "fal"): 3_500_000,
        ("compute-http:veo", "http"): 1,
        ("api-http:veo", "http"): 1,
    }


def clips(day: int, count: int, microusd: int) -> list[Used]:
    return [on(day, Metric.CLIP_JOBS, count, "veo"), on(day, Metric.JOB_MICROUSD, microusd, "veo")]


def test_jobs_at_a_flat_price_are_charged_beside_those_billed_by_the_clip() -> None:
    """Of ann's four jobs one fell back to a vendor that bills by the clip; bob's attempt there failed, at 50 cents."""
    account = [on(3, Metric.JOBS, 4, "veo"), *clips(3, 1, 3_500_000), on(4, Metric.JOBS, 2, "veo")]
    account.append(on(4, Metric.JOB_MICROUSD, 500_000, "veo"))
    users = [row._replace(user_id="ann") for row in account[:3]] + [account[3]._replace(user_id="bob")]
    found = charged(account, users)
    assert {
        (charge.day.day, charge.sku, charge.user_id): charge.billed_nanousd for charge in found if charge.billed_nanousd
    } == {
        (3, "compute-veo", "ann"): 30_000_000,
        (3, "api-veo", "ann"): 15_000_000,
        (3, "clips-veo", "ann"): 3_500_000_000,
        (4, "compute-veo", "bob"): 20_000_000,
        (4, "api-veo", "bob"): 10_000_000,
        (4, "clips-veo", ""): 500_000_000,
    }


def test_a_job_costs_compute_and_api_by_its_model() -> None:
    jobs = on(3, Metric.JOBS, 4, "veo")
    found = charged([jobs], [jobs._replace(user_id="ann")])
    assert [(charge.service, charge.sku, charge.user_id, charge.billed_nanousd) for charge in found] == [
        ("compute", "compute-veo", "ann", 40_000_000),
        ("compute", "compute-veo", "", 0),
        ("api", "api-veo", "ann", 20_000_000),
        ("api", "api-veo", "", 0),
    ]
    assert {charge.price_book for charge in found} == {BOOK.mark}


def test_cloudflares_count_replaces_ours_and_is_not_added_to_it() -> None:
    theirs: dict[str, Any] = {"source": UsageSource.CLOUDFLARE}
    account = [
        on(1, Metric.OPERATIONS, 5, "PutObject"),
        on(1, Metric.OPERATIONS, 7, "PutObject", **theirs),
        on(1, Metric.OPERATIONS, 2, "GetObject", **theirs),
        on(2, Metric.OPERATIONS, 5, "PutObject"),
        on(1, Metric.STORED_BYTES, 1, "one", **theirs),
        on(1, Metric.STORED_BYTES, 2, "two", **theirs),
    ]
    found = {(charge.day.day, charge.service): charge for charge in charged(account)}
    assert found[1, "r2-class-a"].consumed_quantity == 7
    assert found[1, "r2-class-b"].consumed_quantity == 2
    assert found[1, "r2-storage"].consumed_quantity == 3  # all buckets of the account
    assert not found[1, "r2-class-a"].estimated
    assert found[2, "r2-class-a"].estimated  # our own count does not see what others ask


def test_deletes_are_free() -> None:
    assert charged([on(1, Metric.OPERATIONS, 5, "DeleteObject")]) == []


def test_an_uncounted_day_is_charged_as_the_day_before_and_marked() -> None:
    earlier = Used(MONTH - timedelta(days=2), Metric.STORED_BYTES, GB)
    found = charged([earlier, stored(3, 2)], today=date(2026, 11, 4))
    assert [(charge.day.day, charge.consumed_quantity // GB, charge.estimated) for charge in found] == [
        (1, 1, True),
        (2, 1, True),
        (3, 2, False),
        (4, 2, True),
    ]


def test_before_the_first_known_day_nothing_is_made_up() -> None:
    assert [charge.day.day for charge in charged([stored(3, 2)], today=date(2026, 11, 4))] == [3, 4]


def test_sampled_figures_and_a_day_that_is_not_over_are_estimates() -> None:
    account = [stored(1, 1, sampled=True), stored(2, 1), stored(3, 1)]
    assert [charge.estimated for charge in charged(account, today=date(2026, 11, 3))] == [True, False, True]


QUANTITY = st.integers(0, 10**12)  # of 40, so that a sum stays within what a bill takes: 10**14
USES = st.lists(
    st.tuples(
        st.integers(1, 30),
        st.sampled_from(
            [
                (Metric.STORED_BYTES, "", ""),
                (Metric.STORED_BYTES, "", COLD),
                (Metric.OPERATIONS, "PutObject", ""),
                (Metric.OPERATIONS, "Unheard", COLD),
                (Metric.OPERATIONS, "GetObject", ""),
                (Metric.RETRIEVED_BYTES, "", COLD),
                (Metric.JOBS, "veo", ""),
            ]
        ),
        QUANTITY,
        st.sampled_from(["", "ann", "bob"]),
    ),
    max_size=40,
)


@given(USES, st.integers(1, 30))
def test_the_rows_sum_to_the_bill_on_every_day_for_any_usage(
    uses: list[tuple[int, tuple[Metric, str, str], int, str]], until: int
) -> None:
    rows = [on(day, what[0], much, what[1], storage_class=what[2], user_id=user) for day, what, much, user in uses]
    account, users = [row for row in rows if not row.user_id], [row for row in rows if row.user_id]
    today = date(2026, 11, until)
    computed = compute_charges(account, BOOK, MONTH, today)
    charges = list(share(computed, users, {}, BOOK))
    for charge in computed:
        same = [each for each in charges if (each.day, each.sku) == (charge.day, charge.item.sku)]
        assert sum(each.consumed_quantity for each in same) == charge.quantity
        assert sum(each.list_nanousd for each in same) == charge.list_nanousd
        assert sum(each.billed_nanousd for each in same) == charge.billed_nanousd
    assert len({(charge.day, charge.sku, charge.user_id) for charge in charges}) == len(charges)

    def total(metric: Metric, resource: str, kind: str = "") -> int:
        wanted = (metric, resource, kind)
        return sum(each.quantity for each in account if each[1:2] + each[3:5] == wanted and each.day <= today)

    def peaks(kind: str) -> list[int]:
        by_day, last, found = Counter[int](), 0, []
        known = set[int]()
        for each in account:
            if each.metric == Metric.STORED_BYTES:
                known.add(each.day.day)
                by_day[each.day.day] += each.quantity if each.storage_class == kind else 0
        for day in range(1, until + 1):
            last = by_day[day] if day in known else last
            found.append(last)
        return found

    usage = Usage(
        standard=StandardUsage(
            gb_month=gb_months(peaks(""), 30),
            class_a=total(Metric.OPERATIONS, "PutObject"),
            class_b=total(Metric.OPERATIONS, "GetObject"),
        ),
        infrequent_access=InfrequentAccessUsage(
            gb_month=gb_months(peaks(COLD), 30),
            class_a=total(Metric.OPERATIONS, "Unheard", COLD),
            retrieval_gb=gb_months([total(Metric.RETRIEVED_BYTES, "", COLD)]),
        ),
    )
    jobs = total(Metric.JOBS, "veo") * Decimal("0.015")
    assert Decimal(sum(charge.billed_nanousd for charge in charges)) / 10**9 == bill(usage).billed_usd + jobs


@settings(max_examples=10)  # each of which compares 29 pairs of days
@given(st.lists(st.integers(0, 10**12), min_size=30, max_size=30))
def test_charges_of_past_days_stay_as_days_go_by(peaks: list[int]) -> None:
    """Days that are over are not charged anew as the month goes on, unless their usage is known better."""
    account = [on(day, Metric.STORED_BYTES, peak) for day, peak in enumerate(peaks, 1)]
    months = [compute_charges(account, BOOK, MONTH, date(2026, 11, day)) for day in range(1, 31)]
    for before, after in pairwise(months):
        assert [charge[:5] for charge in after[: len(before)]] == [charge[:5] for charge in before]
