"""A quote says what the same request then gets, and changes nothing."""

import random
import secrets
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from reelkeeper.model.requests import Admission, Cached, Declined, Joined, Queued, Quoted, RefusedFor
from reelkeeper.operations.core import freeze
from reelkeeper.operations.jobs.admit import admit, quoted
from reelkeeper.operations.jobs.settle import Attempt, succeed
from reelkeeper.rules.billing.catalogue import ModelEntry
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.billing import credit_holds
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import jobs
from tests.operations.asking import ask, claim, fox, make, quoted_cost, row
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force
from tests.tiers import tiers


def verdict(answer: Admission) -> tuple[object, ...]:
    """What a request got, and what was taken or held for it."""
    match answer:
        case Declined(code, reason):
            return code, reason
        case Cached():
            return "cached", answer.charged_microusd
        case Joined() | Queued():
            return type(answer).__name__.lower(), answer.price_microusd
    raise AssertionError(answer)


def quoted_verdict(told: Quoted) -> tuple[object, ...]:
    """What a quote says that a request would get, in the same form."""
    return told.declined[:2] if told.declined else (told.status, told.price_microusd)


def contents(engine: sa.Engine) -> dict[str, list[Any]]:
    """Read the whole store, but for the clock of its last look."""
    with reading(engine) as session:
        return {
            name: sorted(map(repr, session.execute(sa.select(table)))) for name, table in jobs.metadata.tables.items()
        }


def test_a_quote_and_then_the_request_have_the_same_verdict_and_price(engine: sa.Engine) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    chance, seen = random.Random(seed), set[object]()
    users = {"rich": 10 * DOLLAR, "poor": 60_000, "broke": 1}
    for user, microusd in users.items():
        make_user(engine, user, microusd)
    make_user(engine, "odd", 10 * DOLLAR, tier=None)
    cost = quoted_cost_of(engine)
    for number in range(60):
        put_in_force(engine, admission=_admission(chance, cost), tiers=tiers(free={"quota_bytes": 60_000_000}))
        if frozen := chance.random() < 0.1:
            freeze.freeze(engine, by="test", reason="a test")
        request = fox(seed=chance.randrange(4), shared=chance.random() < 0.7)
        user, provider = chance.choice([*users, "odd"]), chance.choice(["local"] * 9 + [None])
        before = contents(engine)
        told = quoted(engine, request, user_id=user, provider=provider)
        assert contents(engine) == before
        answer = admit(engine, request, user_id=user, client_key=f"k{number}", provider=provider)
        assert quoted_verdict(told) == verdict(answer)
        seen.add(verdict(answer)[0])
        if frozen:
            freeze.thaw(engine, by="test")
        if isinstance(answer, Queued) and chance.random() < 0.5:
            finish(engine, answer.job_id)
    assert "queued" in seen
    assert seen & {*RefusedFor}


def test_a_quote_says_what_is_charged_in_the_end(engine: sa.Engine) -> None:
    make_user(engine, "ann", 10 * DOLLAR)
    make_user(engine, "bob", 10 * DOLLAR)
    put_in_force(engine, admission=AdmissionPolicy(hit_charge_percent=30))
    request = fox(shared=True)
    told = [quoted(engine, request, user_id="ann")]
    first = ask(engine, "k1", request)
    told.append(quoted(engine, request, user_id="bob"))
    second = ask(engine, "k2", request, user="bob")
    assert isinstance(first, Queued)
    assert isinstance(second, Joined)
    finish(engine, first.job_id)
    told.append(quoted(engine, request, user_id="bob"))
    third = ask(engine, "k3", request, user="bob")
    assert isinstance(third, Cached)
    assert [quote.status for quote in told] == ["queued", "joined", "cached"]
    held = [row(engine, answer.job_id).hold_id for answer in (first, second, third)]
    assert [quote.charge_microusd for quote in told] == [captured(engine, hold_id) for hold_id in held]
    assert told[0].price_microusd == told[1].price_microusd == first.price_microusd > (told[2].price_microusd or 0) > 0


def test_what_no_model_makes_has_no_price(engine: sa.Engine) -> None:
    make_user(engine, "ann", DOLLAR)
    put_in_force(engine, book=PriceBook(models=(ModelEntry(model="other", provider="fal", vendor_model="x"),)))
    told = quoted(engine, fox(), user_id="ann")
    assert told.declined is not None
    assert (told.status, told.price_microusd, told.declined.code) == (None, None, RefusedFor.MODEL)
    assert verdict(ask(engine, "k1")) == quoted_verdict(told)


def captured(engine: sa.Engine, hold_id: str | None) -> int:
    with reading(engine) as session:
        return credit_holds.captured(session, hold_id)


def quoted_cost_of(engine: sa.Engine) -> int:
    make_user(engine, "ann", DOLLAR)
    return quoted_cost(engine)


def finish(engine: sa.Engine, job_id: str) -> None:
    token = claim(engine, job_id)
    make(engine, job_id)
    succeed(engine, Attempt(job_id, token), run_id="test")


def _admission(chance: random.Random, cost_microusd: int) -> AdmissionPolicy:
    """Draw a policy: a share for hits, and sometimes a budget, overall or of each user, for a few jobs."""
    usd = (Decimal(cost_microusd) * chance.randrange(1, 8) / 10**6).quantize(Decimal("0.000001"))
    return AdmissionPolicy(
        hit_charge_percent=chance.choice([0, 0, 30]),
        daily_limit_usd=usd if chance.random() < 0.2 else None,
        spend_limits=(SpendLimit(scope="user:*", period=Period.DAY, usd=usd),) if chance.random() < 0.3 else (),
    )
