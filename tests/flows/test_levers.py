"""Levers: those of a generated year equal an independent count, and the API lists the same ones as `status`."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from flows.forecast_costs import forecast_costs
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.money import Metric, StorageClass, Used
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.operations.health.status import gather
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.lifecycle.worth import Payback
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import blobs, daily_views, users, videos
from tests.flows.scenes import Scene
from tests.jobs import made, put
from tests.policies import put_in_force

NOW = datetime.now(UTC)
GB = 10**9
MONTH, HOUR, MINUTE = timedelta(days=30), timedelta(hours=1), timedelta(minutes=1)
USD_PER_GB_MONTH = 0.015  # R2's list price of Standard; .01 in Infrequent Access
RETENTION_DAYS = {"free": 30, "premium": 90, "pro": 365}
Row = dict[str, Any]


def price(usd: str) -> Row:
    return {"unit": "second", "rates": [{"usd": usd}], "source": "a list", "read_on": "2026-11-01"}


BOOK = PriceBook.model_validate(
    {
        "models": [
            {
                "model": "veo",
                "provider": "fal",
                "price": price("0.10"),
                "offers": [{"provider": "runway", "price": price("0.06")}],
            }
        ]
    }
)


def a_year_of_jobs(draw: random.Random) -> Iterator[Row]:
    """4,000 requests of 40 users for 400 videos, each fiftieth sent again in the next minutes."""
    for number in range(4000):
        subject, user = min(int(draw.paretovariate(0.6)), 400), f"u{draw.randrange(40)}"
        is_shared = subject % 3 == 0
        request = {"model": "veo", "prompt": f"cat {subject}", "duration_seconds": 5, "width": 1280, "height": 720}
        equal = f"{subject}-{is_shared}"
        row: Row = {
            "user_id": user,
            "request": request,
            "request_sha256": equal,
            "cache_key": equal if is_shared else f"{equal}-{user}",
            "model": "veo",
            "provider": "fal",
            "cost_microusd": draw.randrange(300_000, 700_000),
        }
        at = NOW - timedelta(days=draw.uniform(0.5, 365))
        yield made(f"j{number}", at, **row)
        if number % 50 == 0:
            yield made(f"j{number}-again", at + draw.uniform(1, 40) * MINUTE, **row)


def made_again(rows: list[Row]) -> Counter[str]:
    """Count what jobs of the last 30 days cost that made a video again, by reading them in the order of time."""
    seen_requests, seen_entries, spent = set[str](), set[str](), Counter[str]()
    lately: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["finished_at"]):
        request, entry = row["request_sha256"], row["cache_key"]
        before = [
            other
            for other in lately.setdefault(f"{request}/{row['user_id']}", [])
            if row["created_at"] - other["created_at"] <= HOUR
        ]
        name = (
            "retried"
            if before
            else "again"
            if entry in seen_entries
            else "not_shared"
            if request in seen_requests
            else ""
        )
        if name and row["finished_at"] >= NOW - MONTH:
            spent[name] += row["cost_microusd"]
        lately[f"{request}/{row['user_id']}"].append(row)
        seen_requests.add(request)
        seen_entries.add(entry)
    return spent


def stored_videos(draw: random.Random) -> Iterator[Row]:
    """1,500 videos of these users, of all ages that their tiers keep, two thirds without a view in the last month."""
    for number in range(1500):
        user = draw.randrange(40)
        tier = ("free", "premium", "pro")[user % 3]
        yield {
            "id": f"v{number}",
            "user_id": f"u{user}",
            "tier": tier,
            "age_days": draw.uniform(0.5, RETENTION_DAYS[tier] - 0.5),
            "views": draw.choice((0, 0, 3)),
            "size_bytes": draw.randrange(GB // 2, 3 * GB),
            "codec": draw.choice(("h264", "h264", "av1")),
        }


def unused(rows: list[Row]) -> Counter[str]:
    """Count the bytes that each lever of storage moves."""
    found = Counter[str]()
    for row in rows:
        is_idle, retention_days = row["views"] == 0 and row["age_days"] > 30, RETENTION_DAYS[row["tier"]]
        found["idle"] += row["size_bytes"] * is_idle
        found[f"user:{row['user_id']}"] += row["size_bytes"] * is_idle
        found[f"retention:{row['tier']}"] += row["size_bytes"] * (row["age_days"] > retention_days / 2)
        found["class"] += row["size_bytes"] * (is_idle and retention_days - row["age_days"] > 30)
        found["backlog"] += row["size_bytes"] * (row["age_days"] > 7 and row["codec"] == "h264" and not is_idle)
    return found


def put_videos(engine: sa.Engine, rows: list[Row]) -> None:
    with transaction(engine, "test") as session:
        session.execute(
            sa.insert(users), [{"id": f"u{n}", "tier": ("free", "premium", "pro")[n % 3]} for n in range(40)]
        )
        known = [
            {
                "id": row["id"],
                "user_id": row["user_id"],
                "state": "live",
                "created_at": NOW - timedelta(days=row["age_days"]),
            }
            for row in rows
        ]
        session.execute(sa.insert(videos), known)
        plain = {"state": "live", "stored_at": NOW}
        session.execute(
            sa.insert(blobs),
            [
                {
                    "id": number,
                    "video_id": row["id"],
                    "key": row["id"],
                    "size_bytes": row["size_bytes"],
                    "codec": row["codec"],
                }
                | plain
                for number, row in enumerate(rows, 1000)
            ],
        )
        of_video = sa.select(blobs.c.id).where(blobs.c.video_id == videos.c.id).scalar_subquery()
        session.execute(sa.update(videos).values(blob_id=of_video).where(videos.c.blob_id.is_(None)))
        viewed = [
            {"video_id": row["id"], "day": (NOW - timedelta(days=2)).date(), "views": 3} for row in rows if row["views"]
        ]
        session.execute(sa.insert(daily_views), viewed)
        stored = sum(row["size_bytes"] for row in rows)
        yesterday = (NOW - timedelta(days=1)).date()
        record(session, [Used(yesterday, Metric.STORED_BYTES, stored, storage_class=StorageClass.STANDARD)])


@pytest.mark.long("a year of 4,000 jobs and 1,500 videos")
def test_the_levers_of_a_generated_year_equal_a_count_of_their_own(scene: Scene, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    draw = random.Random(seed)
    asked, kept = list(a_year_of_jobs(draw)), list(stored_videos(draw))
    free = DEFAULTS.recipe.model_copy(update={"payback": Payback(cpu_usd_per_hour=None)})
    put_in_force(scene.engine, book=BOOK, recipe=free)
    put_videos(scene.engine, kept)
    put(scene.engine, asked)

    forecast_costs(dry_run=False, months=2, as_of=NOW)

    told = {lever.scope: (lever.impact_microusd or 0) / 10**6 for lever in gather(scene.engine).levers}
    again, moved = made_again(asked), unused(kept)
    late = [row for row in asked if row["finished_at"] >= NOW - MONTH]
    users_of = [name for name, _ in moved.most_common() if name.startswith("user:")][:3]
    expected = {name: spent / 10**6 for name, spent in again.items()}
    expected |= {name: moved[name] / GB * USD_PER_GB_MONTH for name in ("idle", *users_of)}
    expected |= {name: moved[name] / GB * USD_PER_GB_MONTH for name in moved if name.startswith("retention:")}
    expected["backlog"] = moved["backlog"] / GB * USD_PER_GB_MONTH / 2
    expected["class"] = moved["class"] / GB * 0.005 - 9 / 3  # a million moves, over three months
    expected["model:veo:runway"] = len(late) * 5 * (0.10 - 0.06)
    del told["codec"]  # of the backlog, by a figure of the encoders
    assert told == {name: pytest.approx(usd, rel=0.05) for name, usd in expected.items() if usd >= 1}
    assert [*told] == sorted(told, key=lambda name: -told[name])
    assert {"retried", "again", "not_shared"} <= set(told)

    _, token = tokens.create(scene.engine, "a test", (Scope.METRICS,), author="test")
    client = TestClient(
        create_app(AppState(scene.world.workspace, tmp_path)), headers={"Authorization": f"Bearer {token}"}
    )
    listed = client.get("/v1/levers").json()["levers"]
    assert [(lever["name"], lever["microusd_a_month"]) for lever in listed if lever["name"] != "codec"] == [
        (name, round(usd * 10**6)) for name, usd in told.items()
    ]
    words = {word.strip(":,.") for lever in listed for word in lever["way"].split()}
    fields = {word for word in words if "." in word and "_" in word}
    assert len(fields) >= 4
    for path in fields:  # each is a field of the policies
        value: Any = Policies().model_dump()
        for name in path.split("."):
            value = value[name]
