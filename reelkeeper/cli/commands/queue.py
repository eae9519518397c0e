"""`queue`: show waiting, running and dead jobs, and explain a job's place; `jobs`: try dead ones again, or cancel."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypedDict

import typer

from reelkeeper.cli.opening import reading, store
from reelkeeper.cli.screen import dollars, emit, respond, say, table
from reelkeeper.cli.words import AsJson, Limit, who
from reelkeeper.errors import NotFound

if TYPE_CHECKING:
    from sqlmodel import Session

    from reelkeeper.model.jobs import WaitingJob
    from reelkeeper.operations.jobs.lanes import Vendor
    from reelkeeper.rules.core.tiers import Tiers
    from reelkeeper.rules.jobs.dispatch import DispatchPolicy
    from reelkeeper.store.jobs.queue import JobLine

group = typer.Typer(help="Try dead jobs again, and cancel jobs.", no_args_is_help=True)
Explain = Annotated[str | None, typer.Option("--explain", metavar="JOB", help="Explain this job's place in the queue.")]
Dead = Annotated[bool, typer.Option("--dead", help="Only jobs that failed for good, latest first, with their errors.")]


def queue(explain: Explain = None, dead: Dead = False, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show the queue: waiting jobs in starting order, running jobs, dead jobs, and what each vendor takes.

    The order follows the policy in force; jobs that are not due yet, after a failed attempt, come last.
    """
    from reelkeeper.store.core.engine import now

    with reading() as session:
        as_of = now(session)
        if explain is not None:
            _explain(session, explain, as_of, as_json=as_json)
        else:
            _show(session, as_of, limit, only_dead=dead, as_json=as_json)


def _show(session: "Session", as_of: datetime, limit: int, *, only_dead: bool, as_json: bool) -> None:
    from reelkeeper.model.jobs import JobState
    from reelkeeper.operations.jobs.lanes import picture
    from reelkeeper.store.jobs import queue as jobs
    from reelkeeper.store.jobs.slots import jobs_at_once, lane_limits

    counts, at_once, by_provider = jobs.counted(session), jobs_at_once(session), lane_limits(session)
    found = {JobState.DEAD: jobs.listed(session, JobState.DEAD, limit)}
    if not only_dead:
        found = {state: jobs.listed(session, state, limit) for state in (JobState.RUNNING, JobState.PARKED)} | found
        found = {JobState.QUEUED: _in_order(session, as_of, limit)} | found
    if as_json:
        limits = {"jobs_at_once": at_once, "jobs_at_once_by_provider": by_provider}
        shown = {} if only_dead else {"vendors": [asdict(vendor) for vendor in picture(session)]}
        emit({**limits, "counts": counts, **{state.value: lines for state, lines in found.items()}, **shown})
        return
    if not any(found.values()):
        say("No job is dead." if only_dead else "No job is waiting, running or dead.")
    for state, lines in found.items():
        if lines:
            title = f"{state}: {counts.get(state, 0):,}" + (
                f", {len(lines)} shown" if len(lines) < counts[state] else ""
            )
            _table(state, lines, title, as_of)
    if at_once is not None and not only_dead:
        each = "".join(f", {limit} of {provider}" for provider, limit in by_provider.items())
        say(f"At most {at_once} at once{each}, as set by tune_concurrency.")
    if not only_dead and (vendors := picture(session)):
        _vendors(vendors, as_of)


def _vendors(vendors: "Sequence[Vendor]", as_of: datetime) -> None:
    rows: list[list[object]] = [
        [
            of.provider,
            of.state,
            f"{of.running:,}" + (f" of {of.limit:,}" if of.limit is not None else ""),
            f"{of.parked:,}",
            f"for {_ago(of.held_until, as_of)}" if of.held_until else "",
            f"{of.seconds_between:g} s" if of.seconds_between else "",
            "" if of.budget_left_microusd is None else dollars(of.budget_left_microusd),
            "" if of.usd_per_second is None else f"${of.usd_per_second:.3f}",
        ]
        for of in vendors
    ]
    headings = ("!vendor", "state", ">running", ">parked", ">held", ">between sends", ">budget left", ">a second, from")
    table(headings, rows, title="vendors")


def _table(state: str, lines: "Sequence[JobLine]", title: str, as_of: datetime) -> None:
    headings = ["!job", "user", "tier", "model", ">asked"]
    rows: list[list[object]] = [
        [job_line.id, job_line.user_id, job_line.tier, job_line.model, _ago(as_of, job_line.created_at)]
        for job_line in lines
    ]
    for row, job_line in zip(rows, lines, strict=True):
        if state == "queued":
            due = f"in {_ago(job_line.due_at, as_of)}" if job_line.due_at > as_of else "now"
            row += [
                f"{job_line.estimate_seconds:.0f} s",
                job_line.attempts,
                f"waits for {job_line.leader_id}" if job_line.leader_id else due,
            ]
        elif state == "dead":
            row += [
                _ago(as_of, job_line.finished_at or as_of),
                job_line.attempts,
                dollars(job_line.cost_microusd),
                job_line.error,
            ]
        else:
            row += [
                f"{job_line.estimate_seconds:.0f} s",
                f"{job_line.progress:.0%}",
                job_line.claimed_by,
                job_line.error,
            ]
    headings += {
        "queued": [">estimate", ">tries", "may start"],
        "dead": [">died", ">tries", ">cost us", "error"],
    }.get(state, [">estimate", ">done", "worker", "last error"])
    table(headings, rows, title=title)


def _in_order(session: "Session", as_of: datetime, limit: int) -> "list[JobLine]":
    """Return the waiting jobs: due ones in starting order, then those not due yet, then those that joined another."""
    from reelkeeper.model.jobs import JobState
    from reelkeeper.rules.jobs.dispatch import order
    from reelkeeper.store.jobs import queue as jobs

    line = _considered(session)
    due = [job.id for job in order(line.jobs, line.policy, line.tiers, as_of, line.credit_seconds, **line.length)][
        :limit
    ]
    lines = jobs.named(session, due)
    rest = [job_line for job_line in jobs.listed(session, JobState.QUEUED, limit) if job_line.id not in lines]
    return [*(lines[job_id] for job_id in due), *rest][:limit]


def _explain(session: "Session", job_id: str, as_of: datetime, *, as_json: bool) -> None:
    from reelkeeper.model.jobs import JobState
    from reelkeeper.operations.jobs.routing import verdicts
    from reelkeeper.rules.jobs import dispatch
    from reelkeeper.store.jobs import queue as jobs

    line = jobs.named(session, [job_id]).get(job_id)
    if line is None:
        raise NotFound(f"no job {job_id!r}")
    if line.state != JobState.QUEUED or line.leader_id:
        waits = f"It joined job {line.leader_id}, which makes the same video, and waits for that."
        why = waits if line.leader_id else line.error or ""
        if line.state == JobState.PARKED:
            why = f"{why}. {_until(session, line, as_of)}"
        text = f"Job {job_id} is {line.state}. {why}".strip()
        respond(text, {"job": line, "place": None, "terms": [], "why": why}, as_json=as_json)
        return
    waiting, policy, tiers, credit, length = _considered(session)
    job = next((waiting_job for waiting_job in waiting if waiting_job.id == job_id), None)
    waiting += [] if job else [line.as_job()]
    placed = dispatch.order(waiting, policy, tiers, as_of, credit, **length)
    place = [waiting_job.id for waiting_job in placed].index(job_id) + 1
    terms = dispatch.explain(job or line.as_job(), waiting, policy, tiers, as_of, **length)
    full = [*_full(session, line, as_of), *_unwell(session, line, as_of)]
    known = jobs.find(session, job_id)
    offers = verdicts(session, known) if known else ()
    if as_json:
        rest = {"of": len(waiting), "credit_seconds": credit, "terms": terms, "offers": offers}
        emit({"job": line, "full": full, "place": place, **rest})
        return
    if offers:
        say(f"It goes to {line.lane}. Its model's offers, as they are now:")
        rows = [
            (found.provider, dollars(found.expected_microusd), f"{found.wait_seconds:.0f} s", found.reason)
            for found in offers
        ]
        table(("!provider", ">for a delivered clip", ">wait", "why"), rows)
    if full:
        say(f"Job {job_id} waits: {'; '.join(full)}. The jobs behind it go on.")
        return
    due = "" if line.due_at <= as_of else f" It is due in {_ago(line.due_at, as_of)}, after: {line.error or 'a pause'}."
    say(f"Job {job_id} is {place} of the {len(waiting)} that are considered next.{due}")
    table(("!term", ">counts", "why"), [(term.name, f"{round(term.value, 1):g}", term.sentence) for term in terms])
    if policy.rule == "aging":
        say("Seconds are added up, and the lowest sum goes first; of equal sums, the oldest job.")
        say(f"By going first, other jobs have earned the oldest job {credit:.0f} s of credit so far.")


def _until(session: "Session", line: "JobLine", as_of: datetime) -> str:
    """Explain when a parked job is looked up, and until when its credits are held."""
    from reelkeeper.operations.core.policies import in_force

    most = timedelta(hours=in_force(session).policies.attempts.give_up_hours)
    soon = f"in {_ago(line.due_at, as_of)}" if line.due_at > as_of else "by the next free worker"
    return (
        f"Its provider may have it, and is asked again {soon}. Its credits are held meanwhile; if nothing is known by "
        f"{(line.started_at or as_of) + most:%Y-%m-%d %H:%M} UTC, it is given up at no charge."
    )


def _full(session: "Session", line: "JobLine", as_of: datetime) -> list[str]:
    """Name the caps and limits that a job waits for, and until when its vendor takes none."""
    from reelkeeper.operations.core.policies import in_force
    from reelkeeper.operations.jobs import lanes
    from reelkeeper.rules.core.limit_scopes import in_words, of_job
    from reelkeeper.rules.core.wording import many
    from reelkeeper.rules.health.performance_report import seconds
    from reelkeeper.rules.jobs.caps import Room
    from reelkeeper.store.jobs.lanes import occupied
    from reelkeeper.store.jobs.slots import lane_limits

    caps, known = in_force(session).policies.caps, lanes.known(session)
    limits = lanes.limits(lane_limits(session), known)
    full = Room(caps, occupied(session), limits).full() if caps or limits else {}
    held_seconds = known[line.lane].shut_seconds(as_of) if line.lane in known else 0.0
    held = f"provider {line.lane} asked us to wait, and gets no job for {seconds(held_seconds)}"
    return ([held] if held_seconds else []) + [
        f"{in_words(scope)} has {many(full[scope][0], 'job')} running, and may have {full[scope][1]}"
        for scope in of_job(line.lane, line.model, line.tier, line.user_id)
        if scope in full
    ]


def _unwell(session: "Session", line: "JobLine", as_of: datetime) -> list[str]:
    """Explain whether a job waits for its provider's open circuit breaker, and until when."""
    from reelkeeper.operations.jobs.breaker import resting
    from reelkeeper.rules.jobs.breaker import Phase

    found = resting(session, as_of).get(line.lane or "")
    if found is None or found.until is None:
        return []
    until = (
        f"gets no job until {found.until:%H:%M:%S} UTC"
        if found.phase(as_of) is Phase.OPEN
        else "gets only a few trial jobs"
    )
    return [f"provider {line.lane} is failing and {until}: {found.why}"]


class _Line(NamedTuple):
    """The jobs from which the next one is chosen, and the inputs of that choice."""

    jobs: "list[WaitingJob]"
    policy: "DispatchPolicy"
    tiers: "Tiers"
    credit_seconds: float
    length: "_Length"


class _Length(TypedDict):
    slots: int
    more_seconds: float


def _considered(session: "Session") -> _Line:
    from reelkeeper.operations.core.policies import in_force
    from reelkeeper.rules.jobs.dispatch import window
    from reelkeeper.store.core.controls import remembered
    from reelkeeper.store.jobs.claims import DISPATCH, waiting_jobs
    from reelkeeper.store.jobs.slots import jobs_at_once

    memory, policies = remembered(session, [DISPATCH]).get(DISPATCH, {}), in_force(session).policies
    policy, tiers = policies.order, policies.tiers
    waiting, more = waiting_jobs(session, window(policy, tiers), tiers.names)
    length = _Length(slots=jobs_at_once(session) or 1, more_seconds=more)
    return _Line(waiting, policy, tiers, float(memory.get("credit_seconds", 0.0)), length)


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

    What a provider has made is fetched again, and not paid for again, unless --buy-again says so.
    """
    from reelkeeper.operations.jobs.claim import redrive as operation

    if buy_again and not yes:
        typer.confirm(f"Pay for another video of {', '.join(jobs)}?", abort=True, err=True)
    with store() as engine:
        for job_id in jobs:
            operation(engine, job_id, author=who(), buy_again=buy_again)
    respond(f"{', '.join(jobs)}: queued again.", {"redriven": jobs}, as_json=as_json)


@group.command()
def cancel(jobs: Named, as_json: AsJson = False) -> None:
    """Cancel waiting jobs, and ask running ones and those at a provider to stop; their held credits are released."""
    from reelkeeper.model.jobs import IN_FLIGHT
    from reelkeeper.operations.jobs.settle import cancel as operation

    with store() as engine:
        states = {job_id: operation(engine, job_id, run_id=who()) for job_id in jobs}
    if as_json:
        emit(states)
    else:
        for job_id, state in states.items():
            say(f"{job_id}: {'asked to stop' if state in IN_FLIGHT else state}.")
