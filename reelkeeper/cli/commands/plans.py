"""`plan`: plan a flow's work and show saved plans; `approve`: allow a refused plan."""

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from reelkeeper.cli.commands import run
from reelkeeper.cli.opening import configured, reading, store
from reelkeeper.cli.screen import emit, listing, say
from reelkeeper.cli.words import AsJson, Limit, Reason, moment, who
from reelkeeper.errors import ReelkeeperError

if TYPE_CHECKING:
    from reelkeeper.rules.lifecycle.report import Report


def plan(
    flow: Annotated[str | None, typer.Argument(help="Plan this flow's work, without changing anything.")] = None,
    param: run.Param = None,
    as_of: run.AsOf = None,
    only: run.Only = None,  # noqa: ARG001  it refuses
    show: Annotated[str | None, typer.Option("--show", help="Show a saved plan, and its outcome.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List saved plans, newest first (the default).")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show what a flow would do, and why; or show saved plans.

    A plan is saved, and can be applied once within 24 hours: [bold]reelkeeper run FLOW --apply --plan ID[/].
    """
    if sum(map(bool, (flow, show, list_all))) > 1:
        raise typer.BadParameter("give one of FLOW, --show ID and --list")
    if flow in _WITHOUT_PREFECT:
        report = _preview(flow, param or [], as_of)
        run.show(report, param or [], most=limit, as_json=as_json)
        if not report.plan.population.objects and not as_json:
            say(_why_empty())
    elif flow == "transcode_videos":
        raise typer.BadParameter("it makes no plan, and helps a run of tier_storage: reelkeeper plan tier_storage")
    elif flow:
        run.start(flow, param or [], apply=False, as_of=as_of, plan_id=None, as_json=as_json, most=limit)
    elif show:
        from reelkeeper.operations.lifecycle.plans import load
        from reelkeeper.operations.lifecycle.previews import require_prefix

        with store() as engine:
            require_prefix(engine, configured())
            if as_json:
                emit(load(engine, show))
            else:
                run.show_plan(engine, show, limit)
    else:
        _list(limit, as_json=as_json)


def approve(
    plan_id: Annotated[str, typer.Argument(metavar="PLAN", help="Id of a refused plan, from `plan --list`.")],
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve a plan that the blast radius refused, and have Prefect carry it out once, unchanged.

    The approval covers this plan with the figures of its refusal: if they have grown, it is refused again.
    If no Prefect server is configured, the command that carries the plan out is shown.
    """
    from reelkeeper.adapters import orchestrator
    from reelkeeper.operations.core.workspace import trial_at
    from reelkeeper.operations.lifecycle import plans

    if refused := trial_at(configured()):
        raise refused
    with store() as engine:
        if not yes:
            say(plans.refusal(engine, plan_id))
            typer.confirm("Carry out this plan once, unchanged?", abort=True, err=True)
        approved = plans.approve(engine, plan_id, author=who(), reason=reason)
    server = orchestrator.connect(configured())
    run_id = plans.start_approved(approved, server) if server else None
    if as_json:
        emit(approved._asdict() | {"run_id": run_id})
    elif run_id:
        say(f"Plan {plan_id} is approved for one run; run {run_id} of {approved.flow} carries it out.")
    else:
        say(f"Plan {plan_id} is approved for one run. To carry it out: {approved.command}")


_WITHOUT_PREFECT = ("tier_storage", "expire_videos", "purge_retired")  # saving a plan needs only the store


def _preview(flow: str, params: list[str], as_of: str | None) -> "Report":
    """Make the plan of the flow's dry run, without starting Prefect, which takes seconds."""
    from reelkeeper.cli import parameters
    from reelkeeper.operations.core.overrides import as_params
    from reelkeeper.operations.lifecycle import previews
    from reelkeeper.operations.lifecycle.previews import plans_service_keys

    at, settings = moment(as_of), configured()
    make = getattr(previews, flow)
    arguments = parameters.read(flow, make, params)
    with store() as engine:
        previews.require_prefix(engine, settings)
        may = partial(plans_service_keys, engine, settings)
        work = previews.Planning(engine, at or datetime.now(UTC), uuid4().hex, may, as_params(arguments))
        report: Report = make(work, **arguments)
        return report


def _why_empty() -> str:
    """Explain why the catalogue has no live video, and what to do about it."""
    from reelkeeper.operations.core.workspace import misplaced, open_bucket, unclaimed

    settings, where = configured(), ""
    if settings.endpoint_url:
        with suppress(ReelkeeperError), open_bucket(settings) as bucket:
            where = misplaced(bucket)
    if where:
        return f"{where}. To read those, set REELKEEPER_PREFIX."
    advice = "The catalogue has no live video yet. To take in what is stored: reelkeeper run sync_catalog --apply"
    advice += ", whose tables say why objects stay out, such as keys that no pattern reads (REELKEEPER_KEY_PATTERN)"
    key = unclaimed(settings)
    return f"{advice}\n{run.WILL_CLAIM.format(key)}" if key else advice


def _list(limit: int, *, as_json: bool) -> None:
    from reelkeeper.operations.core.workspace import trial_at
    from reelkeeper.operations.lifecycle.plans import recent
    from reelkeeper.rules.core.wording import TRIAL

    with reading() as session:
        lines = recent(session, limit=limit)
    headings = ("!plan", "!flow", "state", "!made", ">items", ">bytes", "what if", "refused because")
    cells = (
        "id",
        "flow",
        lambda line: "would be refused" if line.refusal and line.state == "ready" else line.state,  # not tried yet
        "created_at",
        "items",
        "size_bytes",
        "what_if",
        lambda line: (line.refusal or "").partition("\n")[0] if line.state != "applied" else "",  # despite it
    )
    otherwise = "No plan is saved yet. To make one: reelkeeper plan tier_storage"
    listing(lines, headings, cells, as_json=as_json, otherwise=otherwise)
    if lines and not as_json and trial_at(configured()):
        say(TRIAL)
