"""`simulate`: a table, JSON, the same result for the same seed, and clear refusals."""

import json

import pytest
from typer.testing import CliRunner

from reelkeeper.cli import app

SMALL = {
    "queue": ["queue", "--jobs", "400"],
    "cache": ["cache", "--days", "3", "--requests-a-day", "300", "--budget-gb", "0.5"],
}


@pytest.mark.parametrize("what", sorted(SMALL))
def test_the_simulation_compares_our_rule_with_others_and_says_that_it_is_a_model(what: str) -> None:
    done = CliRunner().invoke(app, ["simulate", *SMALL[what]])
    assert done.exit_code == 0, done.output
    assert "ours" in done.output
    assert "seed" in done.output
    assert "This is a model" in done.output


@pytest.mark.long
@pytest.mark.parametrize("what", sorted(SMALL))
def test_the_same_seed_gives_the_same_figures(what: str) -> None:
    first, again, other = (
        CliRunner().invoke(app, ["simulate", *SMALL[what], "--seed", seed, "--json"]).stdout for seed in ("1", "1", "2")
    )
    assert json.loads(first) == json.loads(again) != json.loads(other)


def test_a_policy_is_tried_by_its_parameters() -> None:
    asked = ["simulate", *SMALL["queue"], "--json", "--param", 'policy.rule="fifo"']
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert found["ours"]["mean_seconds"] == found["fifo"]["mean_seconds"]


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (["queue", "--distribution", "normal"], 2, "choose one of uniform, exponential, lognormal, bimodal"),
        (["queue", "--param", "policy.nope=3"], 2, "no field 'nope'"),
        (["concurrency", "--param", "policy.growth=9"], 9, "policy.growth"),
        (["queue", "--jobs", "0"], 2, "--jobs"),
    ],
)
def test_invalid_options_are_refused_with_a_remedy(asked: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["simulate", *asked])
    assert done.exit_code == code
    assert said in done.output


@pytest.mark.parametrize("what", [[], ["queue"], ["cache"], ["concurrency"]])
def test_its_help_names_nothing_that_only_we_have_read(what: list[str]) -> None:
    assert "source document" not in CliRunner().invoke(app, ["simulate", *what, "--help"]).output
