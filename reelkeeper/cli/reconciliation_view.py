"""Show `bill --reconcile`: our account of a month against Cloudflare's, or against a provider's account of its jobs."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from datetime import date
from typing import TYPE_CHECKING

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.cli.words import new_run_id, who
from reelkeeper.model.money import NANO_IN_MICRO
from reelkeeper.rules.billing.focus import exact_usd, written
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.model.money import SentJob
    from reelkeeper.operations.billing.metering import Reconciled
    from reelkeeper.rules.billing.vendor_bill import VendorComparison


def show_cloudflare(first: date, last: date, *, as_json: bool) -> None:
    """Compare the days from `first` to `last` with Cloudflare's, and print the differences."""
    from reelkeeper.adapters import cloudflare
    from reelkeeper.operations.billing.metering import reconcile

    client = cloudflare.connect(configured())
    with store() as engine, closing(client) if client else nullcontext():
        found = reconcile(engine, client, first, last)
    if as_json:
        emit(_usage_json(found))
    else:
        _print_usage(found, f"{first:%Y-%m}")


def _usage_json(found: "Reconciled") -> dict[str, object]:
    days = found.usage
    billed = found.billed_by_cloudflare_usd
    return {
        "differences": [
            {"sku": difference.sku, "unit": difference.unit, "ours": difference.ours, "theirs": difference.theirs}
            | {"difference": difference.difference, "list_usd": exact_usd(difference.list_nanousd)}
            for difference in days.differences
        ],
        "days_of_both": days.both,
        "days_of_ours_alone": days.only_ours,
        "days_of_theirs_alone": days.only_theirs,
        "charged_usd": written(found.charged_usd),
        "billed_by_cloudflare_usd": None if billed is None else written(billed),
        "trouble": found.trouble,
    }


def _print_usage(found: "Reconciled", month: str) -> None:
    days = found.usage
    if days.both:
        rows = [
            (item.sku, item.unit, item.ours, item.theirs, item.difference, exact_usd(item.list_nanousd))
            for item in days.differences
        ]
        table(("!sku", "unit", ">ours", ">Cloudflare's", ">difference", ">$ list"), rows)
    say(
        f"{month}: days known to both {len(days.both)}, only to us {len(days.only_ours)}, "
        f"only to Cloudflare {len(days.only_theirs)}."
    )
    if found.billed_by_cloudflare_usd is None:
        say(f"Charged for R2: ${written(found.charged_usd)}. Cloudflare's bill is unknown: {found.trouble}.")
        return
    difference = found.billed_by_cloudflare_usd - found.charged_usd
    say(
        f"Charged for R2: ${written(found.charged_usd)}. Cloudflare bills ${written(found.billed_by_cloudflare_usd)}: "
        f"a difference of ${written(difference)}."
    )


def show_provider(
    provider: str, first: date, last: date, *, end_doubts: bool = False, ask: bool = True, as_json: bool
) -> None:
    """Compare the days from `first` to `last` with the provider's, print the differences, and end doubts if told to."""
    from reelkeeper.adapters import providers
    from reelkeeper.operations.jobs import charged

    billing = providers.billing(configured(), provider)
    with store() as engine:
        found = charged.reconcile(engine, billing, first, last)
        never_came = charged.doubts_to_end(engine, found, first)
        may_cost = sum(job.cost_microusd or 0 for job in never_came)
        if not as_json:
            _print_jobs(found, provider, f"{first:%Y-%m}")
            _print_doubts(never_came, may_cost, provider)
        ended = 0
        if end_doubts and never_came:
            if ask:
                typer.confirm(f"Count ${_of_micro(may_cost)} less as spent?", abort=True, err=True)
            ended = charged.end_doubts(engine, never_came, author=who(), run_id=new_run_id("bill"))
    if as_json:
        doubts = [{"job": job.job_id, "ours_usd": _of_micro(job.cost_microusd)} for job in never_came]
        emit(
            {"provider": provider, "month": f"{first:%Y-%m}", **_jobs_json(found)}
            | {"never_made": doubts, "ended_usd": _of_micro(ended)}
        )
    elif ended:
        say(f"${_of_micro(ended)} no longer counts as spent.")


def _print_doubts(never_came: "Sequence[SentJob]", may_cost: int, provider: str) -> None:
    if never_came:
        say(
            f"{many(len(never_came), 'job')} may have been made, and {provider}'s account has no room for them a day "
            f"later: ${_of_micro(may_cost)}. To end that, add --end-doubts."
        )


def _usd(nanousd: int | None) -> str | None:
    return None if nanousd is None else exact_usd(nanousd)


def _of_micro(microusd: int | None) -> str | None:
    return None if microusd is None else exact_usd(microusd * NANO_IN_MICRO)


def _difference(found: "VendorComparison") -> int | None:
    return None if found.theirs_nanousd is None else found.theirs_nanousd - found.ours_nanousd


def _jobs_json(found: "VendorComparison") -> dict[str, object]:
    return {
        "jobs_of_both": len(found.both),
        "requests_of_both": found.requests,
        "differences": [
            {"job": bill.job_id, "at_provider": bill.vendor_id, "ours_usd": _usd(bill.ours_nanousd)}
            | {"theirs_usd": _usd(bill.theirs_nanousd), "difference_usd": _usd(bill.difference_nanousd)}
            for bill in found.differing
        ],
        "only_ours": [
            {"job": job.job_id, "at_provider": job.vendor_id, "started_at": job.sent_at}
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


def _print_jobs(found: "VendorComparison", provider: str, month: str) -> None:
    if found.sums:
        say(f"{month} at {provider}: {len(found.summed):,} of our jobs ended; it reports costs per day and model:")
        table(
            ("day", "model", ">$ theirs"),
            [(f"{job.at:%Y-%m-%d}", job.model, _usd(job.cost_nanousd)) for job in found.sums],
        )
        _sum_up(found, provider)
        return
    say(
        f"{month} at {provider}: jobs known to both {len(found.both):,}, made for {many(found.requests, 'request')} "
        f"of ours; only to us {len(found.only_ours):,}, only to {provider} {len(found.only_theirs):,}."
    )
    for job in found.only_ours:
        at_vendor = job.vendor_id or "no name there"
        say(f"Only known to us: job {job.job_id}, {at_vendor}, ${_of_micro(job.cost_microusd) or ' not known'}.")
    for entry in found.only_theirs:
        cost = "at an unknown cost" if entry.cost_nanousd is None else f"${exact_usd(entry.cost_nanousd)}"
        say(f"Only known to {provider}: {entry.id}, {entry.model}, {entry.at:%Y-%m-%d %H:%M}, {cost}.")
    if found.differing:
        rows = [
            (bill.job_id, bill.vendor_id, *(_usd(nanousd) or "not known" for nanousd in amounts))
            for bill in found.differing
            if (amounts := (bill.ours_nanousd, bill.theirs_nanousd, bill.difference_nanousd))
        ]
        table(("!job", f"at {provider}", ">$ ours", ">$ theirs", ">$ difference"), rows)
    _sum_up(found, provider)


def _sum_up(found: "VendorComparison", provider: str) -> None:
    if found.theirs_nanousd is None:
        say(f"Ours: ${exact_usd(found.ours_nanousd)}. {provider} does not report what a job cost: compare its invoice.")
        return
    say(
        f"Ours: ${exact_usd(found.ours_nanousd)}. {provider} bills ${exact_usd(found.theirs_nanousd)}: "
        f"a difference of ${_usd(_difference(found))}."
    )
