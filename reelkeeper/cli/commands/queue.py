"""`queue`: show waiting, running and dead jobs, and explain a job's place; `jobs`: try dead ones again, or cancel."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import Cell, dollars, emit, listing, respond, say, table
from reelkeeper.cli.words import AsJson, Limit, who
from reelkeeper.errors import NotFound, PartialFailure, Refused

if TYPE_CHECKING:
    from reelkeeper.operations import JobLine
    from reelkeeper.operations.jobs.queue import Explained, Listed

Done = TypeVar("Done")
group = typer.Typer(help="Try dead jobs again, and cancel jobs.", no_args_is_help=True)
Explain = Annotated[str | None, typer.Option("--explain", metavar="JOB", help="Explain this job's place in the queue.")]
Dead = Annotated[bool, typer.Option("--dead", help="Only jobs that failed for good, latest first, with their errors.")]


def queue(explain: Explain = None, dead: Dead = False, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show the queue: waiting jobs in starting order, running jobs, dead jobs, and what each vendor takes.

    The order follows the policy in force; jobs that are not due yet, after a failed attempt, come last.
    """
    from reelkeeper.operations.jobs import queue as operation

    with store() as engine:
        if explain is not None:
            _explain(operation.explain(engine, explain), as_json=as_json)
        else:
            _show(operation.listed(engine, limit, only_dead=dead), only_dead=dead, as_json=as_json)


def _show(found: "Listed", *, only_dead: bool, as_json: bool) -> None:
    if as_json:
        shown = {} if only_dead else {"vendors": found.vendors}
        limits = {name: getattr(found, name) for name in ("jobs_at_once", "jobs_at_once_by_provider", "counts")}
        emit({**limits, **{state.value: lines for state, lines in found.jobs.items()}, **shown})
        return
    if not any(found.jobs.values()):
        say("No job is dead." if only_dead else "No job is waiting, running or dead.")
    for state, lines in found.jobs.items():
        if lines:
            _jobs(state, lines, found)
    if found.jobs_at_once is not None and not only_dead:
        each = "".join(f", {limit} of {provider}" for provider, limit in found.jobs_at_once_by_provider.items())
        say(f"At most {found.jobs_at_once} at once{each}, as set by tune_concurrency.")
    if found.vendors:
        headings = (
            "!vendor",
            "state",
            ">running",
            ">parked",
            ">held",
            ">between sends",
            ">budget left",
            ">a second, from",
        )
        cells: tuple[Cell, ...] = (
            "provider",
            "state",
            lambda of: f"{of.running:,}" + (f" of {of.limit:,}" if of.limit is not None else ""),
            "parked",
            lambda of: f"for {_ago(of.held_until, found.as_of)}" if of.held_until else "",
            lambda of: f"{of.seconds_between:g} s" if of.seconds_between else "",
            lambda of: "" if of.budget_left_microusd is None else dollars(of.budget_left_microusd),
            lambda of: "" if of.usd_per_second is None else f"${of.usd_per_second:.3f}",
        )
        listing(found.vendors, headings, cells, as_json=False, title="vendors")


def _jobs(state: str, lines: "Sequence[JobLine]", found: "Listed") -> None:
    as_of, count = found.as_of, found.counts.get(state, 0)

    def may_start(job: "JobLine") -> str:
        due = f"in {_ago(job.due_at, as_of)}" if job.due_at > as_of else "now"
        return f"waits for {job.leader_id}" if job.leader_id else due

    headings: tuple[str, ...] = (">estimate", ">done", "worker", "last error")
    cells: tuple[Cell, ...] = (_estimate, lambda job: f"{job.progress:.0%}", "claimed_by", "error")
    if state == "queued":
        headings, cells = (">estimate", ">tries", "may start"), (_estimate, "attempts", may_start)
    elif state == "dead":
        headings = (">died", ">tries", ">cost us", "error")
        cells = (lambda job: _ago(as_of, job.finished_at or as_of), "attempts", "cost_microusd", "error")
    headings = ("!job", "user", "tier", "model", ">asked", *headings)
    cells = ("id", "user_id", "tier", "model", lambda job: _ago(as_of, job.created_at), *cells)
    shown = f", {len(lines)} shown" if len(lines) < count else ""
    listing(lines, headings, cells, as_json=False, title=f"{state}: {count:,}{shown}")


def _estimate(job: "JobLine") -> str:
    return f"{job.estimate_seconds:.0f} s"


def _explain(found: "Explained", *, as_json: bool) -> None:
    job, why = found.job, f" {found.why}" if found.why else ""
    if as_json:
        emit(found)
        return
    if found.place is None:
        say(f"Job {job.id} is {job.state}.{why}")
        return
    if found.offers:
        say(f"It goes to {job.lane}. Its model's offers, as they are now:")
        cells = ("provider", "expected_microusd", lambda offer: f"{offer.wait_seconds:.0f} s", "reason")
        listing(found.offers, ("!provider", ">for a delivered clip", ">wait", "why"), cells, as_json=False)
    if found.full:
        say(f"Job {job.id} waits: {'; '.join(found.full)}. The jobs behind it go on.")
        return
    say(f"Job {job.id} is {found.place} of the {found.of} that are considered next.{why}")
    table(
        ("!term", ">counts", "why"), [(term.name, f"{round(term.value, 1):g}", term.sentence) for term in found.terms]
    )
    if found.rule == "aging":
        say("Seconds are added up, and the lowest sum goes first; of equal sums, the oldest job.")
        say(f"By going first, other jobs have earned the oldest job {found.credit_seconds:.0f} s of credit so far.")


def _ago(later: datetime, earlier: datetime) -> str:
    from reelkeeper.rules.health.performance_report import seconds

    return seconds(max((later - earlier).total_seconds(), 0.0))


Named = Annotated[list[str], typer.Argument(metavar="JOB...", help="Their ids.")]


@group.command()
def retry(
    jobs: Named,
    buy_again: Annotated[
        bool, typer.Option("--buy-again", help="Have them made anew, also where a provider has them or may have them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue dead jobs again, with their credits held and bytes reserved again; look parked ones up now.

    What a provider has made is fetched again, and not paid for again, unless --buy-again says so. Exit code 6 if some
    of several could not be queued, with the reasons.
    """
    from reelkeeper.operations.jobs.claim import redrive as operation

    if buy_again and not yes:
        typer.confirm(f"Pay for another video of {', '.join(jobs)}?", abort=True, err=True)
    with store() as engine:
        done, failed = _each(jobs, lambda job_id: operation(engine, job_id, author=who(), buy_again=buy_again))
    respond(f"{', '.join(done) or 'None'}: queued again.", {"redriven": [*done]}, as_json=as_json)
    _require_none(failed)


@group.command()
def cancel(jobs: Named, as_json: AsJson = False) -> None:
    """Cancel waiting jobs, and ask running ones and those at a provider to stop; their held credits are released.

    A running one that another request has joined goes on, and is charged to that. Exit code 6 if some of several could
    not be cancelled, with the reasons.
    """
    from reelkeeper.model.jobs import IN_FLIGHT
    from reelkeeper.operations.jobs.settle import cancel as operation

    with store() as engine:
        states, failed = _each(jobs, lambda job_id: operation(engine, job_id, run_id=who()))
    if as_json:
        emit(states)
    else:
        for job_id, state in states.items():
            say(f"{job_id}: {'asked to stop' if state in IN_FLIGHT else state}.")
    _require_none(failed)


def _each(jobs: Sequence[str], act: Callable[[str], Done]) -> tuple[dict[str, Done], dict[str, str]]:
    """Do something with each of several jobs; return what was done, and why not with the others."""
    done, failed = dict[str, Done](), dict[str, str]()
    for job_id in dict.fromkeys(jobs):
        try:
            done[job_id] = act(job_id)
        # guard claims.each_named: one job that is not dead keeps those named after it from being queued or cancelled
        except (NotFound, Refused) as error:
            if len(jobs) == 1:
                raise
            failed[job_id] = str(error)
    return done, failed


def _require_none(failed: Mapping[str, str]) -> None:
    if failed:
        raise PartialFailure("; ".join(f"{job_id}: {why}" for job_id, why in failed.items()))
