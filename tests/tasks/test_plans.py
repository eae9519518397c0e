"""Plans as artifacts: users' text is shown literally, and no user is named: no erasure reaches Prefect."""

from datetime import UTC, datetime

import pytest
from prefect.logging import disable_run_logger

from reelkeeper.model.adoption import AdoptedExample, Adoption, AdoptionVerdict, Crowding, LeftOut, PatternCount
from reelkeeper.model.document import Table
from reelkeeper.rules.billing.pricing import StandardUsage, Usage
from reelkeeper.rules.lifecycle.savings import Idle, findings
from reelkeeper.rules.sync.adoption import AdoptionLimits, document, refusal
from tasks import forecasts, markdown

ANN = "ann@example.com"


def test_an_id_that_would_be_a_cell_a_link_or_html_is_shown_as_it_is() -> None:
    shown = markdown("A plan", [Table(("video", ">$"), [("a|b\n<img src=x> [x](http://y) _v_ é—", 1_000)])])
    assert shown.splitlines()[-1] == r"| a\|b, \<img src\=x\> \[x\]\(http\:\/\/y\) \_v\_ é— | 1,000 |"


def test_a_refusal_that_names_its_worst_user_is_shown_without() -> None:
    told = [f"The guard would refuse: 1 user above 20 % of their videos, the worst: user '{ANN}' 3 of 4"]
    assert ANN not in markdown("A plan", told)


def test_keys_of_whatever_kind_and_patterns_that_do_not_fit_name_no_user() -> None:
    one = Crowding(2_000, 0, 1, "a", 2_000, 2_000, 2_000, ANN)
    refused = refusal(AdoptionLimits(), one)
    assert refused is not None
    assert ANN in refused
    keys = (f"videos/{ANN}/1.jpg", f"videos/{ANN}/hls/2.ts", f"videos/{ANN}/")
    left = (LeftOut(AdoptionVerdict.NOT_A_VIDEO, 3, keys),)
    examples = (AdoptedExample(f"videos/{ANN}/3", ANN, "v3"),)
    shown = markdown(
        "A sync", document(Adoption((PatternCount("{user}", 1, 1),), 0, examples, left, None, refused), dry_run=True)
    )
    assert "1\\.jpg" in shown
    assert ANN.split("@", maxsplit=1)[0] not in shown


def test_a_lever_about_a_user_is_shown_without_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(standard=StandardUsage(gb_month=2_000))
    found = findings(Idle(by_user={ANN: 10**12}), usage)
    assert any(ANN in finding.title for finding in found)
    shown: list[str] = []
    monkeypatch.setattr(forecasts, "show", lambda _key, title, parts: shown.append(markdown(title, parts)))
    with disable_run_logger():
        forecasts.publish.fn([], found, run_id="r1", as_of=datetime(2026, 12, 2, tzinfo=UTC), dry_run=True)
    assert "1\\,000" in shown[0]
    assert "example" not in shown[0]
