"""Findings of a recount: none if all adds up, else one critical finding and an error with the figures."""

import pytest
from inline_snapshot import snapshot

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import Mismatch
from reelkeeper.rules.billing.accounts import AccountsReport, findings, summary

WRONG = tuple(Mismatch("balance", f"user/{number}", number, number + 1) for number in range(7))


def report(*mismatches: Mismatch) -> AccountsReport:
    return AccountsReport("settle_accounts", "run", False, 0, 0, 0, 0, mismatches)


def test_all_is_well_where_all_adds_up() -> None:
    assert findings([]) == []
    assert report().require_sound()


def test_a_mismatch_is_one_finding_that_names_the_first_few() -> None:
    (finding,) = findings(WRONG)
    assert (finding.rule, finding.scope, finding.severity) == ("ledger_mismatch", "total", Severity.CRITICAL)
    assert finding.text == snapshot(
        "the accounts do not add up in 7 figures: balance of user/0 is 0, counted 1; balance of user/1 is 1, counted 2; balance of user/2 is 2, counted 3; balance of user/3 is 3, counted 4; balance of user/4 is 4, counted 5; and 2 more. No credits are spent and nothing is deleted until a person has looked."
    )
    assert finding.figures == (("balance", "7"),)


def test_a_run_with_a_mismatch_fails_with_a_remedy_and_names_no_user() -> None:
    with pytest.raises(IntegrityDoubt) as told:
        report(WRONG[0]).require_sound()
    assert str(told.value) == snapshot(
        "the accounts do not add up in 1 figure (balance). Changes are frozen; run run. See `reelkeeper credits recount`, find what wrote past Reelkeeper, then `reelkeeper thaw`."
    )
    assert WRONG[0].subject not in str(told.value)


def test_a_figure_of_many_digits_can_be_read() -> None:
    assert summary([Mismatch("held", "ann", 10**6, 0)]) == snapshot(
        "the accounts do not add up in 1 figure: held of ann is 1,000,000, counted 0"
    )
