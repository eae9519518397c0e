"""Charges: replaced as a whole per day, and summed in the database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import sqlalchemy as sa

from reelkeeper.model.money import Charge, Mismatch
from reelkeeper.store.billing.charge_reports import (
    Settled,
    SkuLine,
    Spent,
    billed,
    by_day_and_service,
    by_month,
    by_scope,
    by_sku,
    settled,
)
from reelkeeper.store.billing.charges import (
    Others,
    Sum,
    adjust,
    between,
    billed_by_provider,
    dearest,
    open_before,
    replace,
    roll_up,
    rolled_up,
    sums,
    take_turns,
)
from reelkeeper.store.billing.recount import mismatches
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import charge_days, charges
from tests.databases import until_waiting

FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
MONTH = (FIRST, date(2026, 11, 30))


def charge(day: date, service: str, user_id: str, list_nanousd: int, billed_nanousd: int | None = None) -> Charge:
    billed = list_nanousd if billed_nanousd is None else billed_nanousd
    tier = {"ann": "pro"}.get(user_id)
    return Charge(day, service, f"{service}-standard", user_id, tier, 10, "Byte-Days", list_nanousd, billed, "book")


ROWS = [
    charge(FIRST, "r2-storage", "", 100, -400),
    charge(FIRST, "r2-storage", "ann", 300),
    charge(FIRST, "r2-storage", "bob", 200),
    charge(SECOND, "compute", "bob", 900)._replace(estimated=True),
    charge(SECOND, "compute", "", 0),
]


def put(engine: sa.Engine, *rows: Charge) -> None:
    with transaction(engine, "test") as session:
        take_turns(session)
        replace(session, {row.day for row in rows}, rows)


def test_a_day_is_replaced_as_a_whole_and_twice_is_as_good_as_once(engine: sa.Engine) -> None:
    put(engine, *ROWS)
    put(engine, *ROWS)
    put(engine, charge(SECOND, "api", "cid", 5))
    with reading(engine) as session:
        assert list(between(session, *MONTH)) == [*sorted(ROWS[:3]), charge(SECOND, "api", "cid", 5)]


def test_of_an_item_only_the_rows_that_differ_are_written(engine: sa.Engine) -> None:
    put(engine, *ROWS)
    version = sa.update(charges).values(policy_version=7)
    with transaction(engine, "test") as session:
        session.execute(version)
    put(engine, *ROWS[:2], charge(FIRST, "r2-storage", "cid", 200))
    with reading(engine) as session:
        rows = sa.select(charges.c.user_id, charges.c.policy_version).where(charges.c.day == FIRST)
        assert sorted(map(tuple, session.execute(rows))) == [("", 7), ("ann", 7), ("cid", 0)]
        assert sums(session, "day", FIRST, FIRST)[0].list_nanousd == 600


def test_they_add_up_by_user_service_and_day(engine: sa.Engine) -> None:
    put(engine, *ROWS)
    with reading(engine) as session:
        assert sums(session, "user", *MONTH) == [
            Sum("bob", None, 1_100, 1_100, True),
            Sum("ann", "pro", 300, 300, False),
            Sum("", None, 100, -400, False),
        ]
        assert [total[:1] + total[2:] for total in sums(session, "service", *MONTH)] == [
            ("compute", 900, 900, True),
            ("r2-storage", 600, 100, False),
        ]
        assert [(total.key, total.billed_nanousd) for total in sums(session, "day", *MONTH)] == [
            ("2026-11-01", 100),
            ("2026-11-02", 900),
        ]
        assert sums(session, "day", SECOND, SECOND)[0].list_nanousd == 900


def test_the_dearest_users_are_apart_from_the_others(engine: sa.Engine) -> None:
    put(engine, *ROWS, charge(SECOND, "api", "cid", 7, 6), charge(SECOND, "api", "dan", 5))
    with reading(engine) as session:
        found, others = dearest(session, *MONTH, 2)
    assert [one.key for one in found] == ["bob", "ann", ""]
    assert others == Others(2, 12, 11)
    put(engine, *(row for row in ROWS if row.user_id), charge(SECOND, "api", "cid", 7, 6))
    with reading(engine) as session:
        found, others = dearest(session, *MONTH, 2)
        nothing = dearest(session, date(2026, 12, 1), date(2026, 12, 31), 2)
    assert ([one.key for one in found], others) == (["bob", "ann"], Others(1, 7, 6))  # nothing was left of any user
    assert nothing == ([], Others(0, 0, 0))


def test_a_day_can_be_compared_with_what_it_should_be(engine: sa.Engine) -> None:
    put(engine, *ROWS)
    with reading(engine) as session:
        assert set(settled(session, *MONTH)) == {
            Settled(FIRST, "r2-storage-standard", "r2-storage", "Byte-Days", "", 30, 600, 100, False),
            Settled(SECOND, "compute-standard", "compute", "Byte-Days", "", 20, 900, 900, True),
        }


def test_two_that_charge_the_same_days_wait_for_each_other(postgresql_engine: sa.Engine) -> None:
    engine = postgresql_engine  # SQLite has one writer at a time
    put(engine, *ROWS)
    with ThreadPoolExecutor(1) as pool:
        with transaction(engine, "test") as session:
            take_turns(session)
            replace(session, {row.day for row in ROWS}, ROWS)
            second = pool.submit(put, engine, *ROWS)
            until_waiting(engine, 1)
        second.result()
    with reading(engine) as session:
        assert list(between(session, *MONTH)) == sorted(ROWS)
        assert sum(row.list_nanousd for row in settled(session, *MONTH)) == sum(row.list_nanousd for row in ROWS)


def test_they_add_up_by_day_service_and_tier_with_some_users_apart(engine: sa.Engine) -> None:
    put(engine, *ROWS)

    def rows(*apart: str) -> list[tuple[object, ...]]:
        with reading(engine) as session:
            found = by_scope(session, *MONTH, apart)
        return sorted(
            (
                item.day.day,
                item.service,
                item.tier or "",
                item.user_id,
                item.list_nanousd,
                item.billed_nanousd,
                item.estimated,
            )
            for item in found
        )

    assert rows() == [
        (1, "r2-storage", "", "", 300, -200, False),
        (1, "r2-storage", "pro", "", 300, 300, False),
        (2, "compute", "", "", 900, 900, True),
    ]
    assert rows("bob", "eve") == [
        (1, "r2-storage", "", "", 100, -400, False),
        (1, "r2-storage", "", "bob", 200, 200, False),
        (1, "r2-storage", "pro", "", 300, 300, False),
        (2, "compute", "", "", 0, 0, True),
        (2, "compute", "", "bob", 900, 900, True),
    ]


def test_what_was_charged_before_and_after_the_days_asked_for_is_in_no_sum(engine: sa.Engine) -> None:
    put(engine, *ROWS, charge(date(2026, 10, 31), "api", "bob", 4), charge(date(2026, 12, 1), "api", "bob", 6))
    with reading(engine) as session:
        assert [billed(session, day) for day in (FIRST, SECOND)] == [(100, 100), (900, 1_000)]
        assert by_day_and_service(session, *MONTH) == [Spent(FIRST, "r2-storage", 100), Spent(SECOND, "compute", 900)]
        assert by_sku(session, *MONTH) == [
            SkuLine("compute", "compute-standard", 20, "Byte-Days", 900, 900, True),
            SkuLine("r2-storage", "r2-storage-standard", 30, "Byte-Days", 600, 100, False),
        ]
        assert {item.day for item in by_scope(session, *MONTH, ["bob"])} == {FIRST, SECOND}
        assert billed_by_provider(session, *MONTH) == {"": {"": -400}, "ann": {"": 300}, "bob": {"": 1_100}}
        # of October, the first day has no charges: it is not comparable
        assert by_month(session, date(2026, 10, 1), date(2026, 12, 31)) == {FIRST: 1_000, date(2026, 12, 1): 6}


def test_a_month_is_an_estimate_for_a_user_if_any_of_its_days_is(engine: sa.Engine) -> None:
    known, estimate = charge(FIRST, "compute", "bob", 5), charge(SECOND, "compute", "bob", 7)._replace(estimated=True)
    third = known._replace(day=date(2026, 11, 3))
    put(engine, known, estimate, charge(SECOND, "compute", "ann", 1), third)
    with transaction(engine, "test") as session:
        assert open_before(session, third.day) == [FIRST, SECOND]
        assert [roll_up(session, day) for day in (FIRST, SECOND, third.day, FIRST)] == [1, 2, 1, 0]
        assert rolled_up(session, *MONTH) == [FIRST, SECOND, third.day]
        ann, bob = between(session, *MONTH)
    assert (ann.estimated, ann.billed_nanousd) == (False, 1)
    assert (bob.estimated, bob.billed_nanousd, bob.consumed_quantity) == (True, 17, 30)


def test_a_late_cost_settles_whether_its_item_is_an_estimate_and_no_other_item(engine: sa.Engine) -> None:
    rows = [charge(SECOND, service, "bob", 5)._replace(estimated=True) for service in ("api", "compute")]
    put(engine, *rows)
    with transaction(engine, "test") as session:
        roll_up(session, SECOND)
        adjust(session, SECOND, [charge(SECOND, "compute", "bob", 2)])
        assert [(one.service, one.billed_nanousd, one.estimated) for one in by_sku(session, *MONTH)] == [
            ("compute", 7, False),
            ("api", 5, True),
        ]
        assert rolled_up(session, *MONTH) == [SECOND]


def test_a_recount_is_of_the_last_month_with_charges_and_the_one_before(engine: sa.Engine) -> None:
    days = [date(2026, 9, 30), date(2026, 10, 1), FIRST]
    put(engine, *(charge(day, "api", "bob", 5) for day in days))
    with transaction(engine, "test") as session:
        session.execute(sa.update(charge_days).values(billed_nanousd=6))
        assert mismatches(session) == [Mismatch("charged", f"2026-{month}/api-standard", 6, 5) for month in (10, 11)]
