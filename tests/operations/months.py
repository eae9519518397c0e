"""A month in the store: a spike, a day without data, a forecast, videos, purges and alerts."""

from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from reelkeeper.model.alerts import AlertState, Severity
from reelkeeper.model.money import Charge
from reelkeeper.store.billing import charges
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import alerts, blobs, forecasts, plans, users, verdicts, videos

MONTH = date(2026, 11, 1)
NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
SPIKE = date(2026, 11, 19)
UNKNOWN_DAY = date(2026, 11, 13)
GB = 10**9
_SERVICES = (  # service, sku, unit, quantity a day, nano-dollars a day
    ("compute", "compute-svd", "Jobs", 420, 4_200_000_000),
    ("api", "api-svd", "Jobs", 420, 2_100_000_000),
    ("r2-storage", "r2-storage-standard", "Byte-Days", 356 * GB, 178_000_000),
    ("r2-class-a", "r2-class-a-standard", "Operations", 21_000, 94_500_000),
    ("r2-class-b", "r2-class-b-standard", "Operations", 96_000, 34_600_000),
)
_TIERS = {"ana": "free", "ben": "premium", "chloe": "pro", "dan": None}
HOSTILE = "<img src=x onerror=alert(1)>"  # a user of that name


def fill(engine: sa.Engine) -> None:
    """Put the month into an empty store."""
    with transaction(engine, "test.month") as session:
        owners = [{"id": user, "tier": tier} for user, tier in (_TIERS | {HOSTILE: None}).items()]
        session.execute(sa.insert(users), owners)
        days = [MONTH + timedelta(days=n) for n in range(24) if MONTH + timedelta(days=n) != UNKNOWN_DAY]
        charges.replace(session, days, [charge for day in days for charge in _charges_of(day)])
        earlier = [date(2026, number, 1) for number in range(6, 11)]
        charges.replace(session, earlier, [_charge(day, 21 + 3 * n) for n, day in enumerate(earlier)])
        session.execute(sa.insert(forecasts), [_forecast(n) for n in range(3)])
        session.execute(sa.insert(alerts), _alerts())
    _catalogue(engine)


def _charges_of(day: date) -> list[Charge]:
    times = 3 if day == SPIKE else 1 + day.day % 4 / 10
    found = []
    for service, sku, unit, quantity, nanousd in _SERVICES:
        whole, used = round(nanousd * times), round(quantity * times)
        shares = dict(zip((*_TIERS, HOSTILE), (40, 30, 15, 9, 3), strict=True))
        book = "r2-2026-11"
        for user, share in shares.items():
            cost = whole * share // 100
            found.append(Charge(day, service, sku, user, _TIERS.get(user), used * share // 100, unit, cost, cost, book))
        left = whole - sum(charge.billed_nanousd for charge in found if charge.sku == sku)
        found.append(
            Charge(day, service, sku, "", None, used * 3 // 100, unit, left * 2, left, book, day == NOW.date())
        )
    return found


def _charge(day: date, usd: int) -> Charge:
    return Charge(day, "compute", "compute-svd", "", None, 1, "Jobs", usd * 5 * 10**9, usd * 5 * 10**9, "r2-2026-11")


def _forecast(later: int) -> dict[str, object]:
    mean = (204 + 17 * later) * 10**6
    width = (6 + 9 * later) * 10**6
    return {
        "run_id": "run-1",
        "month": date(2026 + (10 + later) // 12, (10 + later) % 12 + 1, 1),
        "service": "",
        "as_of": NOW - timedelta(days=1),
        "mean_microusd": mean,
        "lower80_microusd": mean - width,
        "upper80_microusd": mean + width,
        "lower95_microusd": mean - 2 * width,
        "upper95_microusd": mean + 2 * width,
        "method": "the median of five methods",
    }


def _alerts() -> list[dict[str, object]]:
    def one(rule: str, severity: Severity, title: str, text: str, **more: object) -> dict[str, object]:
        return {
            "id": f"{rule}-{severity}",
            "rule": rule,
            "scope": "total",
            "period": "2026-11",
            "level": "80",
            "state": AlertState.FIRING,
            "severity": severity,
            "title": title,
            "text": text,
            "suggestion": "",
            "figures": [],
            "impact_microusd": None,
            "run_id": "run-1",
            "first_at": NOW - timedelta(days=5),
            "last_at": NOW,
            "resolved_at": None,
        } | more

    return [
        one(
            "budget",
            Severity.CRITICAL,
            "Daily budget: 198 % is spent",
            "19 November has cost $19.82 of $10.00.",
            suggestion="Look at what generates: reelkeeper bill --by user.",
            period="2026-11-19",
            level="150",
        ),
        one(
            "forecast_breach", Severity.WARNING, "November will end over its budget", "About $204 of $200 is expected."
        ),
        one(
            "saving",
            Severity.NOTICE,
            "Move cold videos to infrequent access",
            f"95 GB of {HOSTILE} were not read for 90 days.",
            impact_microusd=470_000,
        ),
        one(
            "anomaly",
            Severity.WARNING,
            "Storage grew oddly",
            "It was an import.",
            state=AlertState.RESOLVED,
            resolved_at=NOW - timedelta(days=2),
            scope="service:r2-storage",
        ),
    ]


def _catalogue(engine: sa.Engine) -> None:
    ages = (3, 12, 20, 45, 80, 200, 500, None)
    with transaction(engine, "test.catalogue") as session:
        for number, (user, age) in enumerate((user, age) for user in _TIERS for age in ages):
            created_at = None if age is None else NOW - timedelta(days=age)
            video = {"id": f"v{number}", "user_id": user, "state": "live", "created_at": created_at, "generation": 2}
            session.execute(sa.insert(videos).values(**video))
            for generation, state in ((1, "gone"), (2, "live")):
                size_bytes = (4 + number % 7) * GB * (3 if generation == 1 else 1)
                blob = {"video_id": f"v{number}", "generation": generation, "key": f"k{number}-{generation}"}
                blob_id = session.execute(
                    sa.insert(blobs).values(**blob, state=state, size_bytes=size_bytes).returning(blobs.c.id)
                ).scalar_one()
                if state == "live":
                    session.execute(sa.update(videos).where(videos.c.id == f"v{number}").values(blob_id=blob_id))
                elif number < 20:
                    _purged(session, f"p{number}", blob_id, video["id"], size_bytes, number)


def _purged(
    session: sa.orm.Session, plan_id: str, blob_id: int, video_id: object, size_bytes: int, number: int
) -> None:
    at = NOW - timedelta(days=number * 4 + 1)
    plan = {"id": plan_id, "flow": "purge_retired", "state": "applied", "as_of": at, "created_at": at, "applied_at": at}
    session.execute(sa.insert(plans).values(**plan, run_id="run", policy={}, policy_hash="", kept={}))
    verdict = {"plan_id": plan_id, "blob_id": blob_id, "video_id": video_id, "generation": 1, "action": "purge"}
    rule = "grace_over" if number % 3 == 0 else "replaced"
    session.execute(
        sa.insert(verdicts).values(**verdict, rule=rule, reason="", size_bytes=size_bytes, outcome="purged")
    )
