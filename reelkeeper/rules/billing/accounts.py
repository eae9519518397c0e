"""Report the result of a recount of all accounts to people and to its run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.document import RunReport
from reelkeeper.model.money import Mismatch
from reelkeeper.rules.core.wording import many

RULE: Final = "ledger_mismatch"
_NAMED: Final = 5
_WAY_OUT: Final = "See `reelkeeper credits recount`, find what wrote past Reelkeeper, then `reelkeeper thaw`."


@dataclass(frozen=True, slots=True)
class AccountsReport(RunReport):
    """The overdue holds and reservations, and the mismatches. Overdue ones are released if there is no mismatch."""

    overdue_holds: int
    overdue_microusd: int
    overdue_reservations: int
    overdue_bytes: int
    mismatches: tuple[Mismatch, ...] = ()

    def require_sound(self) -> Self:
        """Raise IntegrityDoubt for a mismatch, for which everything was frozen.

        The message names no account, as an erasure does not reach a run's state, where it is stored.
        """
        if self.mismatches:
            kinds = ", ".join(sorted({mismatch.what for mismatch in self.mismatches}))
            summary = f"the accounts do not add up in {many(len(self.mismatches), 'figure')} ({kinds})"
            raise IntegrityDoubt(f"{summary}. Changes are frozen; run {self.run_id}. {_WAY_OUT}")
        return self


def summary(mismatches: Sequence[Mismatch]) -> str:
    """Summarise how many totals do not match, with the first of them."""
    named = "; ".join(
        f"{mismatch.what} of {mismatch.subject} is {mismatch.recorded:,}, counted {mismatch.counted:,}"
        for mismatch in mismatches[:_NAMED]
    )
    more = f"; and {len(mismatches) - _NAMED:,} more" if len(mismatches) > _NAMED else ""
    return f"the accounts do not add up in {many(len(mismatches), 'figure')}: {named}{more}"


def findings(mismatches: Sequence[Mismatch]) -> list[Finding]:
    """Report a mismatch, once until it is gone."""
    if not mismatches:
        return []
    by_kind = {
        what: sum(mismatch.what == what for mismatch in mismatches)
        for what in sorted({mismatch.what for mismatch in mismatches})
    }
    return [
        Finding(
            rule=RULE,
            scope="total",
            severity=Severity.CRITICAL,
            title="The accounts do not add up: changes are frozen",
            text=f"{summary(mismatches)}. No credits are spent and nothing is deleted until a person has looked.",
            suggestion=_WAY_OUT,
            figures=tuple((what.replace("_", " "), f"{count:,}") for what, count in by_kind.items()),
        )
    ]


def holds_ended(job_ids: Sequence[str], at: datetime) -> Finding:
    """Make the finding that the credits held for jobs that have not ended were given back to their users."""
    named = ", ".join(job_ids[:_NAMED])
    return Finding(
        rule="hold_ended",
        scope="total",
        period=f"{at:%Y-%m-%d}",
        severity=Severity.WARNING,
        title="Credits of unfinished jobs were given back",
        text=f"The time of the credits held for {many(len(job_ids), 'job')} is over, and the jobs go on: {named}. Each "
        "is charged once its video is made; a user who has spent the credits by then gets it free.",
        suggestion="See `reelkeeper queue --explain JOB`. Longer holds: `admission.hold_days` of the policies.",
    )
