"""What `bill --reconcile PROVIDER` shows: a vendor's account of the jobs that it was sent beside ours."""

from datetime import date
from typing import TYPE_CHECKING

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.rules.billing.focus import exact_usd

if TYPE_CHECKING:
    from reelkeeper.rules.billing.vendor_bill import VendorComparison

_NANO_IN_MICRO = 1_000


def show(provider: str, first: date, last: date, *, as_json: bool) -> None:
    """Compare the days from `first` to `last`, and print what differs."""
    from reelkeeper.adapters import providers
    from reelkeeper.operations.jobs.vendor_bill import reconcile

    billing = providers.billing(configured(), provider)
    with store() as engine:
        found = reconcile(engine, billing, first, last)
    if as_json:
        emit({"provider": provider, "month": f"{first:%Y-%m}", **_as_json(found)})
    else:
        _print(found, provider, f"{first:%Y-%m}")


def _usd(nanousd: int | None) -> str | None:
    return None if nanousd is None else exact_usd(nanousd)


def _of_micro(microusd: int | None) -> str | None:
    return None if microusd is None else exact_usd(microusd * _NANO_IN_MICRO)


def _difference(found: "VendorComparison") -> int | None:
    return None if found.theirs_nanousd is None else found.theirs_nanousd - found.ours_nanousd


def _as_json(found: "VendorComparison") -> dict[str, object]:
    return {
        "jobs_of_both": len(found.both),
        "differences": [
            {"job": bill.job_id, "at_provider": bill.vendor_ids, "ours_usd": _usd(bill.ours_nanousd)}
            | {"theirs_usd": _usd(bill.theirs_nanousd), "difference_usd": _usd(bill.difference_nanousd)}
            for bill in found.differing
        ],
        "only_ours": [
            {"job": job.id, "at_provider": job.vendor_id, "started_at": job.started_at}
            | {"ours_usd": _of_micro(job.cost_microusd)}
            for job in found.only_ours
        ],
        "only_theirs": [
            {"at_provider": job.id, "model": job.model, "at": job.at, "theirs_usd": _usd(job.cost_nanousd)}
            for job in found.only_theirs
        ],
        "sums": [
            {"day": f"{job.at:%Y-%m-%d}", "model": job.model, "theirs_usd": _usd(job.cost_nanousd)}
            for job in found.sums
        ],
        "jobs_beside_sums": len(found.summed),
        "ours_usd": exact_usd(found.ours_nanousd),
        "theirs_usd": _usd(found.theirs_nanousd),
        "difference_usd": _usd(_difference(found)),
    }


def _print(found: "VendorComparison", provider: str, month: str) -> None:
    if found.sums:
        say(f"{month} at {provider}: {len(found.summed):,} jobs of ours ended, and it tells what a day and model cost:")
        table(
            ("day", "model", ">$ theirs"),
            [(f"{job.at:%Y-%m-%d}", job.model, _usd(job.cost_nanousd)) for job in found.sums],
        )
        _sum_up(found, provider)
        return
    say(
        f"{month} at {provider}: {len(found.both):,} jobs are known to both, {len(found.only_ours):,} to us alone, "
        f"{len(found.only_theirs):,} to {provider} alone."
    )
    for job in found.only_ours:
        at_vendor = job.vendor_id or "no name there"
        say(f"To us alone: job {job.id}, {at_vendor}, ${_of_micro(job.cost_microusd) or ' not known'}.")
    for entry in found.only_theirs:
        cost = "at a cost that it does not say" if entry.cost_nanousd is None else f"${exact_usd(entry.cost_nanousd)}"
        say(f"To {provider} alone: {entry.id}, {entry.model}, {entry.at:%Y-%m-%d %H:%M}, {cost}.")
    if found.differing:
        rows = [
            (bill.job_id, ", ".join(bill.vendor_ids), *(_usd(nanousd) or "not known" for nanousd in amounts))
            for bill in found.differing
            if (amounts := (bill.ours_nanousd, bill.theirs_nanousd, bill.difference_nanousd))
        ]
        table(("!job", f"at {provider}", ">$ ours", ">$ theirs", ">$ difference"), rows)
    _sum_up(found, provider)


def _sum_up(found: "VendorComparison", provider: str) -> None:
    if found.theirs_nanousd is None:
        say(f"Ours: ${exact_usd(found.ours_nanousd)}. {provider} does not say what a job cost: compare its invoice.")
        return
    say(
        f"Ours: ${exact_usd(found.ours_nanousd)}. {provider} bills ${exact_usd(found.theirs_nanousd)}: "
        f"a difference of ${_usd(_difference(found))}."
    )
