"""Results of CRF searches are given to later ones, and their costs and savings are summed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from reelkeeper.model import LessByDay
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.lifecycle import crf_searches
from reelkeeper.store.tables import blobs, jobs, users, videos
from tests.jobs import made
from tests.rules.lifecycle.test_first_crf import SEARCH

REFUSED = replace(SEARCH, kept_bytes=SEARCH.source_bytes, outcome="no_good_result", gain_microusd=0, probes=())
OUTGROWN = replace(SEARCH, probes=((40, 900_001, None, None, 1),))


def test_results_of_searches_are_recalled_newest_first(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        crf_searches.add(session, SEARCH, video_id="v1", run_id="r1", model="fox", machine="m1")
        crf_searches.add(session, OUTGROWN, video_id="v2", run_id="r1", model=None)
        other = replace(SEARCH, encoder="libsvtav1 4.3.0")
        crf_searches.add(session, other, video_id="v3", run_id="r1", model="fox")
    with reading(engine) as session:
        told = crf_searches.recall(session, SEARCH.encoder)
    assert [(item.model, item.machine) for item in told] == [(None, None), ("fox", "m1")]
    assert [[tuple(probe) for probe in item.search.probes] for item in told] == [
        list(OUTGROWN.probes),
        list(SEARCH.probes),
    ]
    assert replace(told[1].search, probes=SEARCH.probes) == SEARCH


def test_searches_are_summed_by_run_by_encoder_and_in_all(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        for run_id, search in (("r1", SEARCH), ("r1", REFUSED), ("r2", SEARCH)):
            crf_searches.add(session, search, video_id="v", run_id=run_id, model=None)
    with reading(engine) as session:
        first = crf_searches.totals(session, run_id="r1")
        assert (first.searches, first.accepted) == (2, 1)
        assert (first.source_bytes, first.kept_bytes, first.cpu_seconds) == (2_000_000, 1_300_000, 10.0)
        assert (first.gain_microusd, first.cost_microusd, first.net_microusd) == (29, 122, -93)
        assert crf_searches.totals(session).searches == 3
        assert crf_searches.totals(session, encoder=SEARCH.encoder).searches == 3
        assert crf_searches.totals(session, encoder="another").searches == 0


def test_they_are_added_up_by_model_and_pixels_and_what_they_took_off_by_day(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        gone = datetime(2099, 1, 2, 3, tzinfo=UTC)
        session.execute(sa.insert(videos).values(id="v", user_id="ann", state="retired", retired_at=gone))
        small = replace(SEARCH, pixels=100)
        for search, video_id, model in (
            (SEARCH, "v", "fox"),
            (SEARCH, "none", "fox"),
            (REFUSED, "v", "fox"),
            (small, "v", None),
        ):
            crf_searches.add(session, search, video_id=video_id, run_id="r", model=model)
    with reading(engine) as session:
        today = session.execute(sa.select(Clock())).scalar_one().date()
        totals = {(model, pixels): total for model, pixels, total in crf_searches.by_model(session)}
        less = crf_searches.less_by_day(session)
    assert {key: (total.searches, total.accepted) for key, total in totals.items()} == {
        ("fox", SEARCH.pixels): (3, 2),
        (None, 100): (1, 1),
    }
    off = SEARCH.source_bytes - SEARCH.kept_bytes
    assert sorted(less, key=str) == sorted(
        [
            LessByDay("fox", SEARCH.pixels, today, gone.date(), off),
            LessByDay("fox", SEARCH.pixels, today, None, off),
            LessByDay(None, 100, today, gone.date(), off),
        ],
        key=str,
    )


def test_what_was_undone_or_overwritten_saved_until_then(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        today = now(session)
        later = today + timedelta(days=40)
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        present = {
            "stands": (SEARCH.kept_bytes, {}),
            "again": (SEARCH.kept_bytes // 2, {}),
            "undone": (SEARCH.source_bytes, {"refused_at": later}),
            "undone_and_retired": (SEARCH.source_bytes, {"refused_at": later, "retired_at": later + timedelta(days=9)}),
            "overwritten": (5, {"created_at": later}),
        }
        for video_id, (size_bytes, about) in present.items():
            session.execute(sa.insert(videos).values(id=video_id, user_id="ann", state="live", **about))
            blob = {
                "video_id": video_id,
                "key": video_id,
                "state": "live",
                "size_bytes": size_bytes,
                "stored_at": today,
            }
            blob_id = session.execute(sa.insert(blobs).values(blob).returning(blobs.c.id)).scalar_one()
            session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id))
            crf_searches.add(session, SEARCH, video_id=video_id, run_id="r", model=video_id)
    with reading(engine) as session:
        went = {line.model: line.went for line in crf_searches.less_by_day(session)}
    day = later.date()
    assert went == {
        "stands": None,
        "again": None,
        "undone": day,
        "undone_and_retired": day,
        "overwritten": day,
    }


def test_the_model_of_a_video_is_that_of_the_job_that_made_it(engine: sa.Engine) -> None:
    at = datetime.now(UTC)
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        session.execute(sa.insert(videos), [{"id": name, "user_id": "ann", "state": "live"} for name in ("v", "w")])
        session.execute(sa.insert(jobs).values(made("j", at, video_id="v", model="fox")))
    with reading(engine) as session:
        assert crf_searches.model_of(session, "v") == "fox"
        assert crf_searches.model_of(session, "w") is None
