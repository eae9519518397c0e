"""What is changed for a mutant, what never is, and what is counted."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import draw, equivalents, main, mutants_of, table
from tests.mutants.operators import mutants, valid
from tests.mutants.reach import built_once

SOURCE = '''"""A purse."""

PAUSE_SECONDS = 30
SECRET = "a"


def due(purse: Purse, at: datetime) -> bool:
    """Say whether it is."""
    if purse.empty and at > purse.until:
        raise ValueError(f"{1 + 1} coins")
    log.info("asked", extra={"times": 2})
    purse.asked = at + timedelta(hours=2)
    session.execute(sa.update(purses).where(purses.c.id == purse.id, purses.c.open).values(open=False, at=at))
    return purse.cents >= LIMIT
'''


def changes(source: str) -> set[str]:
    return {one.key.removeprefix("purse.py::") for one in valid(mutants("purse.py", source))}


def test_comparisons_conditions_units_statements_fields_and_results_change() -> None:
    expected = {
        "PAUSE_SECONDS: 30 -> (30) * 60",
        "PAUSE_SECONDS: 30 -> (30) / 60",
        "due: purse.empty and at > purse.until -> False",
        "due: purse.empty and at > purse.until -> ((purse.empty) or (at > purse.until))",
        "due: at > purse.until -> at >= purse.until",
        "due: at > purse.until -> at <= purse.until",
        "due: purse.asked = at + timedelta(hours=2) -> pass",
        "due: at + timedelta(hours=2) -> (at) - (timedelta(hours=2))",
        "due: hours -> minutes",
        "due: 2 -> 3",
        "due: purses.c.open -> sa.true()",
        "due: open=False -> nothing",
        "due: purse.cents >= LIMIT -> not (purse.cents >= LIMIT)",
    }
    assert expected <= changes(SOURCE)


def test_texts_errors_and_what_is_logged_do_not_change() -> None:
    assert not [key for key in changes(SOURCE) if 'asked"' in key or "coins" in key or "times" in key or '"a"' in key]


def test_the_name_of_a_mutant_does_not_move_with_its_line() -> None:
    moved = "import os\n\n\n" + SOURCE
    assert changes(moved) == changes(SOURCE)


def test_what_isbuilt_once_is_found_by_the_names_of_what_is_kept() -> None:
    source = """
LOOK, SEEN = build(), sa.select()

def build():
    return part()

@lru_cache(maxsize=4)
def window(order):
    return part()

def part():
    return 1

def apart():
    return LOOK
"""
    found = {name: kept for name, kept in built_once(ast.parse(source)).items() if kept}
    assert found == {"build": {"LOOK", "SEEN"}, "window": {"window"}, "part": {"LOOK", "SEEN", "window"}}


def test_what_changes_nothing_is_no_mutant() -> None:
    neutral = ("SAFE = sa.and_(sa.true(), *found)\n", "_BATCH: Final = 2_000\n")
    assert not any(changes(source) for source in neutral)


def test_two_equal_places_have_two_names() -> None:
    twice = [key for key in changes("def f():\n    return x > y, x > y\n") if ">=" in key]
    assert len({key.removesuffix(" #2") for key in twice}) == 1
    assert len(twice) == 2


def test_marked_clauses_are_left_to_their_witnesses() -> None:
    keys = {one.key for one in mutants_of("store/videos/conditions.py")}
    assert not [key for key in keys if "holds.c.scope" in key]
    assert [key for key in keys if "keeps.c.until" in key]


def test_a_seed_draws_the_same_mutants_again() -> None:
    there = mutants_of("store/videos/conditions.py")
    assert draw(there, "7", 5) == draw(there, "7", 5) != draw(there, "8", 5)


def test_a_room_without_code_is_an_error_and_not_a_room_without_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", "rules", "nowhere"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_the_share_is_of_mutants_that_change_a_promise() -> None:
    verdicts = Counter({("rules", "killed"): 3, ("rules", "survived"): 1, ("rules", "equivalent"): 4})
    rows = [line.split()[1:] for line in table({"rules": 900, "store": 600}, verdicts)]
    assert rows[1:] == [
        ["900", "8", "3", "1", "4", "75%"],
        ["600", "0", "0", "0", "0", "-"],
        ["1,500", "8", "3", "1", "4", "75%"],
    ]


@pytest.mark.parametrize("key", equivalents())
def test_what_is_equivalent_has_a_file_and_a_reason(key: str) -> None:
    assert Path(key.partition("::")[0]).is_file()
    assert equivalents()[key]
