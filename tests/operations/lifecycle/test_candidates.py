"""The videos that a plan reads and those that it only counts are together what judging each of them says."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.orm import Session

from reelkeeper.adapters import ffmpeg
from reelkeeper.model import Fork, KeptTogether, Verdict, Video, VideoState
from reelkeeper.operations.lifecycle import previews
from reelkeeper.rules.lifecycle import regions
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, refusals, verdicts
from reelkeeper.rules.lifecycle.transcode import BUCKET_LOCK, Recipe, fingerprint, mark_of_month
from reelkeeper.rules.policies import Policies
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.candidates import candidates
from reelkeeper.store.tables import blobs, daily_views, holds, keeps, notices, users, videos, view_days
from tests.rules.lifecycle.test_segments_properties import KEYS, MODELS, RETENTION, TAGS, TIERS, document
from tests.rules.videos import AS_OF
from tests.tiers import tiers

TODAY = AS_OF.date()
STEP = timedelta(microseconds=1)
EVERY_DAY = range(1, 31)
ODD_TIMES = (
    "",
    "soon",
    "2026-10-01",
    "2026-10-01T02:00:00.000000",
    "2026-02-30 00:00:00.000000",
    "2026-10-01 02:00:00",
)
TABLES = (keeps, notices, holds, view_days, daily_views, blobs, videos, users)
Kept = Counter[str]


def policies_of(rng: Random) -> Policies | None:
    written = document(rng)
    notice = {tier: rng.choice([0, 0, 5, 30]) for tier in TIERS}
    kept = {
        tier: {"retention_days": written.pop(field), "notice_days": notice[tier]}
        for tier, field in zip(TIERS, RETENTION, strict=True)
    }
    recipe = Recipe(placement=rng.choice(["new_key", "in_place"]))
    try:
        return Policies(lifecycle=LifecyclePolicy.model_validate(written), tiers=tiers(**kept), recipe=recipe)
    except ValidationError:
        return None


def moments(rng: Random, policies: Policies) -> datetime | None:
    """Return a time of creation, most often at, right before or right after a limit."""
    policy, ahead = policies.lifecycle, [0, *policies.tiers.notice_days().values()]
    limits = [0, *policies.tiers.retention_days().values(), *(one.compress_after_days for one in policy.by_segment)]
    limits += [
        policy.compress_after_days,
        policy.retire_after_days,
        *(one.retire_after_days for one in policy.by_segment),
    ]
    limits += [one.retention_days for one in policy.segments if isinstance(one.retention_days, int)]
    days = rng.choice([limit for limit in limits if limit is not None]) - rng.choice(ahead)
    at_limit = AS_OF - timedelta(days=days) + rng.choice([-STEP, timedelta(), STEP])
    midnight = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=AS_OF.tzinfo) - timedelta(days=rng.randrange(40))
    some = [at_limit] * 6 + [midnight, AS_OF - timedelta(days=rng.uniform(-3, 500))] * 2
    return rng.choice([*some, None])


def fill(engine: sa.Engine, rng: Random, policies: Policies, count: int = 30) -> None:
    ids = [f"v{n:02}" for n in range(count)]
    owners: dict[str, str | None] = {f"u{n}": rng.choice([*TIERS * 4, None, "enterprise"]) for n in range(8)}
    with transaction(engine, "test") as session:
        for table in TABLES:
            if table is blobs:
                session.execute(sa.update(videos).values(blob_id=None))
            session.execute(sa.delete(table))
        session.execute(sa.insert(users), [{"id": user, "tier": tier} for user, tier in owners.items()])
        for n, video_id in enumerate(ids):
            put_video(session, rng, policies, n + 1, {"id": video_id, "user_id": rng.choice([*owners])})
        recorded = {TODAY - timedelta(days=ago) for ago in EVERY_DAY}
        if rng.random() < 0.3:
            recorded -= {TODAY - timedelta(days=rng.choice(EVERY_DAY))}
        session.execute(sa.insert(view_days), [{"day": day} for day in recorded])
        put_exceptions(session, rng, ids, [*owners])
        if engine.dialect.name == "sqlite" and rng.random() < 0.3:
            for video_id in rng.sample(ids, 5):
                odd = {"at": rng.choice(ODD_TIMES), "id": video_id}
                session.execute(sa.text("UPDATE videos SET created_at = :at WHERE id = :id"), odd)


def put_video(session: Session, rng: Random, policies: Policies, number: int, row: dict[str, Any]) -> None:
    mark = fingerprint(policies.recipe, policies.acceptance, ffmpeg.tools().encoder(policies.recipe.codec))
    marks = [None, None, *refusals(mark, AS_OF), *refusals("", AS_OF), mark_of_month(BUCKET_LOCK, AS_OF), "other"]
    row |= {"state": rng.choice(["live"] * 9 + [*VideoState]), "created_at": moments(rng, policies), "generation": 1}
    row |= {"model": rng.choice(MODELS), "tag": rng.choice(TAGS), "refused_recipe": rng.choice(marks)}
    session.execute(sa.insert(videos).values(**row))
    blob: dict[str, Any] = {"id": number, "video_id": row["id"], "generation": 1, "state": "gone"}
    blob |= {"key": rng.choice(KEYS), "is_ours": rng.random() < 0.6, "recipe": rng.choice([None, None, "r"])}
    blob |= {"codec": rng.choice([None, "h264", "h264", "av1", "vp9", "mpeg4"])}
    blob |= {"size_bytes": rng.choice([5, 10, 11, 15, 20, 21, 10**7, 10**8, 6 * 10**9])}
    session.execute(sa.insert(blobs).values(**blob))
    session.execute(sa.update(videos).where(videos.c.id == row["id"]).values(blob_id=number))
    for day in rng.sample(range(33), rng.choice([0, 0, 1, 2])):
        views = {"day": TODAY - timedelta(days=day), "views": rng.choice([0, 1, 1, 2, 4, 8, -1])}
        session.execute(sa.insert(daily_views).values(video_id=row["id"], **views))


def put_exceptions(session: Session, rng: Random, ids: list[str], owners: list[str]) -> None:
    ends = [AS_OF, AS_OF - STEP, AS_OF + STEP, AS_OF + timedelta(days=20)]
    for n in range(rng.choice([0, 3])):
        scope = rng.choice(["user", "video"])
        hold: dict[str, Any] = {
            "id": f"h{n}",
            "scope": scope,
            "subject": rng.choice(owners if scope == "user" else ids),
        }
        hold |= {"reason": "r", "author": "a", "created_at": AS_OF, "is_legal": rng.random() < 0.3}
        hold |= {"expires_at": rng.choice([None, *ends]), "released_at": rng.choice([None, None, AS_OF])}
        session.execute(sa.insert(holds).values(**hold))
    for n in range(rng.choice([0, 4])):
        kept = {"video_id": rng.choice(ids), "author": "a", "at": AS_OF, "days": 1, "until": rng.choice(ends)}
        session.execute(sa.insert(keeps).values(id=f"k{n}", **kept))
    for video_id in rng.sample(ids, rng.choice([0, 4])):
        notice: dict[str, Any] = {
            "video_id": video_id,
            "tier": rng.choice(TIERS),
            "days": 5,
            "rule": "r",
            "run_id": "r",
        }
        notice |= {"given_at": AS_OF, "expires_at": rng.choice(ends), "ended_at": rng.choice([None, AS_OF])}
        session.execute(sa.insert(notices).values(**notice))


def decided(engine: sa.Engine, policies: Policies, flow: str, *, keeps_contract: bool) -> tuple[Any, ...]:
    """Return the population, the kept videos by rule, and all other verdicts with their figures."""
    kept, objects, size, others = Kept(), 0, 0, dict[str, Verdict]()
    choose = previews.for_tiering if flow == "tier_storage" else previews.for_expiry
    for found in choose(engine, policies, AS_OF, keeps_contract=keeps_contract):
        if isinstance(found, KeptTogether):
            kept[found.rule] += found.counts.objects
            objects, size = objects + found.counts.objects, size + found.counts.size_bytes
            continue
        objects, size = objects + 1, size + found.video.size_bytes
        if found.action == "keep":
            kept[found.rule] += 1
        else:
            others[found.video.id] = found
    return kept, objects, size, others


def each(engine: sa.Engine, policies: Policies, flow: str, *, keeps_contract: bool = True) -> tuple[Any, ...]:
    """Decide with every video read and judged."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(regions, "MAX_REGIONS", 0)
        return decided(engine, policies, flow, keeps_contract=keeps_contract)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 2**63))
def test_counting_and_judging_together_are_judging_each(engine: sa.Engine, seed: int) -> None:
    rng = Random(seed)
    if not (policies := policies_of(rng)):
        return
    fill(engine, rng, policies)
    for flow, contract in (("tier_storage", True), ("tier_storage", False), ("expire_videos", rng.random() < 0.5)):
        expected = each(engine, policies, flow, keeps_contract=contract)
        assert decided(engine, policies, flow, keeps_contract=contract) == expected


def test_what_is_no_time_in_sql_is_read_and_named(sqlite_engine: sa.Engine) -> None:
    policies = Policies()
    with transaction(sqlite_engine, "test") as session:
        session.execute(sa.insert(users).values(id="u", tier="free"))
        for number, odd in enumerate(ODD_TIMES, 1):
            put_video(session, Random(number), policies, number, {"id": f"v{number}", "user_id": "u"})
            put = {"at": odd, "id": f"v{number}"}
            session.execute(sa.text("UPDATE videos SET created_at = :at, state = 'live' WHERE id = :id"), put)
    expected = each(sqlite_engine, policies, "tier_storage")
    assert expected[0]["unknown_age"] >= 4
    assert decided(sqlite_engine, policies, "tier_storage", keeps_contract=True) == expected


def test_a_plan_reads_only_the_videos_that_it_may_change(sqlite_engine: sa.Engine) -> None:
    policies = Policies()
    with transaction(sqlite_engine, "test") as session:
        session.execute(sa.insert(users).values(id="u", tier="pro"))
        session.execute(sa.insert(view_days), [{"day": TODAY - timedelta(days=ago)} for ago in EVERY_DAY])
        for number in range(1, 21):
            put_video(session, Random(number), policies, number, {"id": f"v{number}", "user_id": "u"})
        session.execute(sa.delete(daily_views))
        aged = {"created_at": AS_OF - timedelta(days=40), "state": "live"}
        session.execute(sa.update(videos).values(created_at=AS_OF - timedelta(days=3), state="live"))
        session.execute(sa.update(videos).where(videos.c.id.in_(["v1", "v2"])).values(**aged))
    with reading(sqlite_engine) as session:
        kept: list[KeptTogether] = []
        read = list(candidates(session, AS_OF, lambda since: divided(policies, since), kept, classified=False))
    assert {video.id for video in read} == {"v1", "v2"}
    assert [(found.rule, found.counts.objects) for found in kept] == [("too_young", 18)]


def divided(policies: Policies, since: datetime) -> Fork | str | None:
    policy, tiers = policies.lifecycle, policies.tiers

    def judged(seen: Iterable[Video]) -> Iterator[Verdict]:
        return verdicts(seen, policy, tiers, AS_OF, "")

    return regions.divide(judged, regions.names(policy, tiers, (), ()), since)
