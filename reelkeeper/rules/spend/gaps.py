"""What is not known of usage: days that nobody counted, and a source that does not answer. Unknown is not zero."""

from collections.abc import Sequence
from datetime import date
from typing import Final

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.rules.core.wording import many

RULE: Final = "missing_usage"
LOOKED_BACK_DAYS: Final = 30  # Cloudflare keeps 31 days of analytics: what is missing longer stays missing
_NAMED: Final = 5


def findings(missing: Sequence[date], trouble: str = "") -> list[Finding]:
    """Say which days are missing, and why a source that was asked did not answer.

    Args:
        missing: days of which nobody knows how much was stored, in order.
        trouble: what Cloudflare answered instead of figures; "" where it did not fail, or was not asked.

    """
    found = []
    if missing:
        named = ", ".join(str(day) for day in missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
        found.append(
            Finding(
                RULE,
                "usage:stored_bytes",
                "",
                "",
                Severity.WARNING,
                f"Usage of {many(len(missing), 'day')} is missing",
                f"Nobody knows how much was stored on {named}. The last known figure stands in, as an estimate.",
                "monitor_costs counts when it runs: see that it does. Cloudflare still has the last 30 days: with "
                "REELKEEPER_CLOUDFLARE_API_TOKEN the next run asks it.",
            )
        )
    if trouble:
        found.append(
            Finding(
                RULE,
                "source:cloudflare",
                "",
                "",
                Severity.WARNING,
                "Cloudflare does not say what was used",
                f"Our own count stands in, which cannot see what others ask of the bucket. {trouble}",
                "Try it: reelkeeper doctor.",
            )
        )
    return found
