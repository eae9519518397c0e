"""`credits` and `quota`: granting, refunding and showing, with exit codes."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from inline_snapshot import snapshot

from reelkeeper.cli.words import byte_count
from reelkeeper.operations.billing.ledger import deduct_user_credits
from reelkeeper.operations.billing.users import give
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.tables import accounts, blobs, credit_holds, videos
from tests.cli.conftest import Run
from tests.reading import TIME, UUID, as_read

Ask = Callable[..., Any]


@pytest.fixture
def engine(one_video: str, tmp_path: Path) -> sa.Engine:  # noqa: ARG001  it makes the store, and ann in it
    return open_engine(f"sqlite:///{tmp_path / 'state' / 'store.sqlite3'}")


@pytest.mark.long
def test_granted_credits_are_shown_and_granted_once_per_key(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    assert engine
    for _ in range(2):
        moved = ask("credits", "grant", "ann", "10.5", "--reason", "a gift", "--key", "gift 1")
        assert moved["amount_microusd"] == 10_500_000
    shown = ask("credits", "show", "ann")
    assert (shown["available_microusd"], shown["held_microusd"], len(shown["moves"])) == (10_500_000, 0, 1)
    assert as_read(reelkeeper("credits", "show", "ann").stdout, only="$", at=TIME, id=UUID) == snapshot("""\
$10.50 available, $0.00 held, $0.00 spent
<at> grant $10.50 <id>\
""")
    reelkeeper("credits", "grant", "ann", "11", "--reason", "a gift", "--key", "gift 1", exit_code=9)


def test_one_key_grants_once_by_the_command_and_the_api(engine: sa.Engine, ask: Ask) -> None:
    given, _ = give(engine, "ann", 10_500_000, "order 1", by="front", reason="a gift")
    moved = ask("credits", "grant", "ann", "10.5", "--reason", "a gift", "--key", "order 1")
    assert moved["id"] == given.id


def test_an_empty_key_is_refused_and_no_new_one(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    assert engine
    reelkeeper("credits", "grant", "ann", "1", "--reason", "a gift", "--key", "", exit_code=9)
    assert (shown := ask("credits", "show", "ann"))["moves"] == []
    assert shown["available_microusd"] == 0


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_grant_whose_answer_cannot_be_written_does_not_ask_to_be_repeated(
    engine: sa.Engine, ask: Ask, words: tuple[str, ...]
) -> None:
    assert engine
    command = [str(Path(sys.executable).with_name("reelkeeper")), "credits", "grant", "ann", "1", "--reason", "a gift"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, *words], stdout=full, stderr=subprocess.PIPE, check=False, timeout=280)
    assert (done.returncode, len(ask("credits", "show", "ann")["moves"])) == (6, 1)


def test_what_was_spent_is_shown_as_the_sum_of_its_moves(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    ask("credits", "grant", "ann", "1", "--reason", "a gift")
    for number in range(3):
        assert deduct_user_credits(engine, "ann", 15_050, f"video {number}")
    said = reelkeeper("credits", "show", "ann").stdout
    assert ("$0.04515" in said, said.count("$0.01505")) == (True, 6)  # three holds, and three captures


@pytest.mark.long
def test_a_capture_is_refunded_at_most_once_over(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    ask("credits", "grant", "ann", "1", "--reason", "a gift")
    assert deduct_user_credits(engine, "ann", 400_000, "video 1")
    with engine.connect() as connection:
        hold = connection.execute(sa.select(credit_holds.c.id)).scalar_one()
    assert "$0.90 available" in reelkeeper("credits", "refund", hold, "0.30", "--reason", "it failed").stdout
    assert "refunded" in reelkeeper("credits", "refund", hold, "0.11", "--reason", "it failed", exit_code=9).stderr
    assert [move["kind"] for move in ask("credits", "show", "ann")["moves"]] == ["refund", "capture", "hold", "grant"]


@pytest.mark.long
@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "inf", "0.0000001", "ten", "1000001"])
def test_an_invalid_amount_ends_with_2(engine: sa.Engine, reelkeeper: Run, amount: str) -> None:
    assert engine
    reelkeeper("credits", "grant", "--reason", "r", "ann", "--", amount, exit_code=2)


def test_an_unknown_user_ends_with_8(reelkeeper: Run, engine: sa.Engine) -> None:
    assert engine
    for words in (
        ("credits", "grant", "eve", "1", "--reason", "r"),
        ("credits", "show", "eve"),
        ("quota", "show", "eve"),
    ):
        assert "'eve'" in reelkeeper(*words, exit_code=8).stderr


@pytest.mark.long
def test_a_quota_is_set_by_hand_and_back(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    assert engine
    used = ask("quota", "show", "ann")["usage_bytes"]
    assert used > 0
    assert not ask("quota", "show", "ann")["can_upload"]  # nobody has said which tier ann is of
    assert ask("quota", "set", "ann", "5GiB")["quota_bytes"] == 5 * 2**30
    assert ask("quota", "show", "ann", "--incoming", "5GB")["can_upload"]
    assert reelkeeper("quota", "show", "ann", "--incoming", "6GB").stdout.startswith("No: ")
    assert ask("quota", "set", "ann", "tier")["quota_bytes"] is None
    reelkeeper("quota", "set", "ann", "much", exit_code=2)


@pytest.mark.long
def test_a_mismatch_ends_with_5_and_can_be_corrected(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    ask("credits", "grant", "ann", "1", "--reason", "a gift")
    assert as_read(reelkeeper("credits", "recount").stdout) == snapshot("Everything adds up.")
    with transaction(engine, "test") as session:
        session.execute(sa.update(accounts).where(accounts.c.id == "user/ann").values(balance_microusd=5))
    assert as_read(reelkeeper("credits", "recount", exit_code=5).stderr) == snapshot(
        "error: the accounts do not add up in 1 figure: balance of user/ann is 5, counted 1,000,000"
    )
    (corrected,) = ask("credits", "recount", "--apply")["corrected"]
    assert (corrected["subject"], corrected["recorded"], corrected["counted"]) == ("user/ann", 5, 1_000_000)
    assert ask("credits", "recount") == {"corrected": [], "mismatches": []}
    assert ask("audit", "--limit", "1")[0]["event"]["event"] == "recount"


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1073741824", 2**30), ("5GiB", 5 * 2**30), ("5Gi", 5 * 2**30), ("5 kB", 5_000), ("2000T", 2 * 10**15)],
)
def test_bytes_are_read_with_and_without_a_unit(text: str, size_bytes: int) -> None:
    assert byte_count(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-5", "1.5GB", "5kbit", "5 parsecs"])
def test_an_invalid_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        byte_count(text)


@pytest.mark.long
def test_a_renamed_user_is_found_by_the_old_id(engine: sa.Engine, reelkeeper: Run, ask: Ask) -> None:
    assert engine
    ask("credits", "grant", "ann", "1", "--reason", "a gift")
    reelkeeper("users", "rename", "ann", "anna", "--apply")
    assert (shown := ask("credits", "show", "ann"))["available_microusd"] == 1_000_000
    assert (shown["user_id"], len(shown["moves"])) == ("anna", 1)
    assert (quota := ask("quota", "show", "ann"))["usage_bytes"] > 0
    assert quota["user_id"] == "anna"
    assert ask("quota", "set", "ann", "5GiB")["quota_bytes"] == 5 * 2**30
    assert ask("quota", "show", "anna")["quota_bytes"] == 5 * 2**30


@pytest.mark.long
def test_videos_of_a_renamed_user_are_stored_and_restored_by_the_old_id(
    engine: sa.Engine, reelkeeper: Run, ask: Ask, tiny_clip: Path
) -> None:
    reelkeeper("users", "rename", "ann", "anna", "--apply")
    reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", "v2")
    assert {video["user_id"] for video in ask("videos")} == {"anna"}
    with transaction(engine, "test") as session:
        session.execute(sa.update(videos).values(state="retired"))
        session.execute(sa.update(blobs).values(state="retired", purge_after=datetime(2100, 1, 1, tzinfo=UTC)))
    found = ask("restore", "--user", "ann", "--dry-run")["restorable"]
    assert [(blob["video_id"], blob["user_id"]) for blob in found] == [("v1", "anna"), ("v2", "anna")]
    assert {done["action"] for done in ask("restore", "--user", "ann")["outcomes"]} == {"restored"}
