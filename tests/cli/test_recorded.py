"""Recorded load is replayed from the store or an exported file, with the same result each time."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.model.jobs import JobState
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store
from tests.cli.conftest import Run
from tests.jobs import at, hit, made, put, waiting
from tests.operations.books import make_user

SECRETS = ("ann", "ben", "a cat", "j00", "secret-key")


@pytest.fixture
def past(reelkeeper: Run) -> Run:
    """40 jobs of two people, each asked for a minute after the last: two of a short kind for each long one; 20 hits."""
    settings.cache_clear()
    with open_store(settings()) as engine:
        make_user(engine, "ann", tier="pro")
        make_user(engine, "ben")
        rows = []
        for number in range(40):
            took = 600.0 if number % 3 == 0 else 100.0
            entry = made(f"j{number:02}", at(number + took / 60), wait=0, took=took)
            user, tier = ("ann", "pro") if number % 4 == 0 else ("ben", "free")
            mine = {"user_id": user, "tier": tier, "estimate_seconds": took * 1.1, "cache_key": f"secret-key-{number}"}
            rows.append({**entry, **mine, "reserved_bytes": 1_000_000})
        put(engine, rows)
        put(engine, [hit(f"h{n}", at(50 + n), cache_key=f"secret-key-{n % 5}", user_id="ben") for n in range(20)])
        put(engine, [waiting("w"), made("dead", at(1), state=JobState.DEAD), made("f", at(2), leader_id="j00")])
    return reelkeeper


@pytest.mark.long
def test_an_exported_file_replays_like_the_store_without_personal_data(
    past: Run, ask: Callable[..., Any], tmp_path: Path
) -> None:
    for what, title in (("jobs", "40 jobs"), ("requests", "60 requests")):
        file = tmp_path / f"{what}.csv"
        file.write_text(past("jobs", "export", what).stdout)
        assert not [secret for secret in SECRETS if secret in file.read_text()]
        command = ["simulate", "queue" if what == "jobs" else "cache", "--recorded"]
        assert ask(*command, file) == ask(*command, "store") == ask(*command, file)
        assert title in past(*command, file).stdout


@pytest.mark.usefixtures("past")
def test_the_recorded_load_is_what_is_played(ask: Callable[..., Any]) -> None:
    played = ask("simulate", "queue", "--recorded", "store", "--slots", 4)
    assert played["ours"]["mean_seconds"] < played["fifo"]["mean_seconds"]  # short before long
    assert set(played["fifo"]["by_tier"]) == {"free", "pro"}
    assert ask("simulate", "queue", "--recorded", "store", "--slots", 1000)["fifo"]["worst_seconds"] == 0
    served = {item["cache"]: item for item in ask("simulate", "cache", "--recorded", "store")}
    assert served["LRU"]["hits"] == pytest.approx(20 / 60)  # each of five keys again, four times


HEADER = "submitted_at,user,tier,model,complexity,estimate_seconds,seconds,prompt_characters\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (HEADER + "2026-11-24T12:00:00,u1,free,m,1,100,90,5\n", 9, "line 2, column submitted_at: .* has no time zone"),
        (
            HEADER + "2026-11-24T12:00:00Z,u1,free,m,1,nan,-3,5\n",
            9,
            "column estimate_seconds: 'nan'.*column seconds: '-3'",
        ),
        ("submitted_at,user\n", 9, "column model: .* lacks this column"),
        (HEADER + "2026-11-24T12:00:00Z,u1,free,m,1,100,90,5\n", 9, "only 1 recorded; at least 10 are needed"),
        (None, 2, "No such file"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(
    reelkeeper: Run, tmp_path: Path, text: str | None, code: int, said: str
) -> None:
    file = tmp_path / "jobs.csv"
    if text is not None:
        file.write_text(text)
    done = reelkeeper("simulate", "queue", "--recorded", file, exit_code=code)
    assert re.search(said, done.output.replace("\n", " ")), done.output


def test_a_store_without_jobs_says_so(reelkeeper: Run) -> None:
    done = reelkeeper("simulate", "queue", "--recorded", "store", exit_code=9)
    assert "--recorded store: only 0 recorded" in done.output
