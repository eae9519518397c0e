"""`jobs`: list dead jobs and try them again, and cancel jobs."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import dollars, emit, respond, say, table
from reelkeeper.cli.words import AsJson, who

group = typer.Typer(help="List dead jobs, try them again, and cancel jobs.", no_args_is_help=True)


Named = Annotated[list[str], typer.Argument(metavar="JOB...", help="Their ids.")]


@group.command()
def dead(
    most: Annotated[int, typer.Option(min=1, help="Number of jobs, latest first.")] = 20, as_json: AsJson = False
) -> None:
    """List the jobs that failed for good, with their errors. Users were not charged for them."""
    from reelkeeper.store.core.engine import reading
    from reelkeeper.store.jobs import claims

    with store() as engine, reading(engine) as session:
        found = claims.dead_jobs(session, most)
    if as_json:
        emit([job._asdict() for job in found])
        return
    table(
        ("job", "user", "model", "!attempts", "!price", "ended", "why"),
        [
            (
                job.id,
                job.user_id,
                job.model,
                job.attempts,
                dollars(job.price_microusd),
                f"{job.finished_at:%Y-%m-%d %H:%M}" if job.finished_at else "",
                job.error or "",
            )
            for job in found
        ],
    )


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


@group.command(hidden=True)
def redrive(jobs: Named, as_json: AsJson = False) -> None:
    """Do what `retry` does, under its earlier name."""
    retry(jobs, as_json=as_json)


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
