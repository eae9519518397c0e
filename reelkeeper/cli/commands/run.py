"""`run`: start a flow in this process, as a schedule would."""

import importlib
import inspect
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from deployments import orchestration
from reelkeeper.cli import screen
from reelkeeper.cli.flow_help import known_flows
from reelkeeper.cli.opening import configured, reading, store
from reelkeeper.cli.screen import emit, out, plain, say, table
from reelkeeper.cli.words import INTERRUPTED, AsJson, moment
from reelkeeper.errors import Misconfigured

if TYPE_CHECKING:
    from reelkeeper.model import PlanSummary
    from reelkeeper.operations import Engine

Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Set one parameter, e.g. limits.max_objects=10 or tiers.pro.retention_days=never. May be repeated.",
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="Judge ages and views as of this time; UTC without a time zone."),
]


def _refuse_part(given: str | None) -> None:
    if given is not None:
        raise typer.BadParameter(
            "a flow plans for all videos. One user or folder alone, by a segment of the policy given with --param: "
            "docs/migration.md, One user or folder alone"
        )


Only = Annotated[
    str | None, typer.Option("--user", "--prefix", hidden=True, callback=_refuse_part, help="Refused: see a segment.")
]
_PATIENCE_SECONDS: Final = 9.0  # of the ten that are promised
_SAID: Final = (
    "\nStopping within 10 seconds: any encoders are ended; requests under way and the record of what was done are "
    "waited for. The next run does the rest. Ctrl-C again ends it at once, which is safe too.\n"
)
WILL_CLAIM: Final = (
    "The bucket has no owner yet: --apply claims it for this store by writing {}, and commands may change it from then "
    "on. To look for longer and change nothing: reelkeeper up"
)
_CLAIMED: Final = "This run has claimed the bucket for this store by writing {}: commands may change it from now on."


def run(
    flow: Annotated[str, typer.Argument(help="The flow, e.g. tier_storage; --help lists all.")],
    param: Param = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the changes. Without it, only a plan is made.")] = False,
    as_of: AsOf = None,
    only: Only = None,  # noqa: ARG001  it refuses
    plan_id: Annotated[
        str | None, typer.Option("--plan", metavar="ID", help="Apply this saved plan: once, within 24 hours.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a flow now, in this process. It is a dry run unless --apply is given.

    The plan is saved and shown before anything is done. The blast radius is checked before the first change, and a
    refusal (exit code 9) names the limit, the figures and the override.
    """
    start(flow, param or [], apply=apply, as_of=as_of, plan_id=plan_id, as_json=as_json)


def start(
    flow: str,
    params: list[str],
    *,
    apply: bool,
    as_of: str | None,
    plan_id: str | None,
    as_json: bool,
    most: int = 20,
) -> None:
    """Validate all arguments, then run the flow and show its report."""
    from reelkeeper.cli import parameters
    from reelkeeper.rules.alerts.cadence import NOT_IN_A_TRIAL

    at = moment(as_of)
    settings = configured()
    if flow not in (known := known_flows()):
        raise Misconfigured(f"no flow {flow!r}; there are {', '.join(known)}")
    if apply and flow in NOT_IN_A_TRIAL:  # the flow refuses it, too, but only once Prefect has started
        from reelkeeper.operations.core.workspace import trial_at

        if refused := trial_at(settings):
            raise refused
    orchestration.require_server()
    alone = orchestration.prepare(settings.state_dir)
    function = getattr(importlib.import_module(f"flows.{flow}"), flow)
    arguments: dict[str, Any] = parameters.read(flow, function.fn, params) | {"dry_run": not apply}
    takes = inspect.signature(function.fn).parameters
    for name, option, value in (("as_of", "--as-of", at), ("plan_id", "--plan", plan_id)):
        if value is not None:
            if name not in takes:
                raise Misconfigured(f"{flow} has no option {option}")
            arguments[name] = value
    first = ", after Prefect has started a server for it, which takes 5 to 20 s; not if PREFECT_API_URL is set"
    from reelkeeper.operations.core.workspace import unclaimed

    unowned = None if as_json else unclaimed(settings)
    with out.status(f"running {flow}{first if alone else ''}", spinner="dots"), _interruptible():
        importlib.import_module("deployments.prefect_internals").start_temporary_server()
        report = function(**arguments)
    show(report, params, most=most, as_json=as_json)
    if unowned:
        say((WILL_CLAIM if report.dry_run else _CLAIMED).format(unowned))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the first Ctrl-C end what runs in this context, with exit code 130, and the second one the process.

    Whatever a run does can be killed at any moment, so an end by force loses no more than a little work.
    """
    is_interrupted = False

    def interrupted(*_: object) -> None:
        nonlocal is_interrupted
        from reelkeeper.adapters import ffmpeg

        is_interrupted = True
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        os.write(2, _SAID.encode())  # a stream could be in use by what was interrupted
        ffmpeg.stop()
        patience = threading.Timer(_PATIENCE_SECONDS, os._exit, [INTERRUPTED])
        patience.daemon = True
        patience.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except BaseException:
        if is_interrupted:  # whatever was raised on the way out
            raise typer.Exit(INTERRUPTED) from None
        raise
    finally:
        if not is_interrupted:
            signal.signal(signal.SIGINT, before)


def show(report: Any, params: list[str], *, most: int, as_json: bool) -> None:  # noqa: ANN401  of whatever flow
    """Print a run's report, and the possible next step."""
    from reelkeeper.rules.alerts.cadence import NOT_IN_A_TRIAL

    if as_json:
        emit(report)
        return
    _show(report, most)
    if not report.dry_run:
        recorded = f" To see its changes: reelkeeper audit --run {report.run_id}" if _is_recorded(report.run_id) else ""
        say(f"Run {report.run_id}.{recorded}")
    elif getattr(report, "refusal", None):
        say("Nothing was changed.")
    elif _plan_id(report) and not any(rule.objects for rule in report.planned):
        say("Nothing was changed, and there is nothing to do.")
    elif report.flow in NOT_IN_A_TRIAL and _is_trial():
        say("Nothing was changed. To apply such plans, go live: reelkeeper up --live")
    else:
        say(f"Nothing was changed. To apply it: {_next_step(report.flow, params, report)}")


def _is_trial() -> bool:
    from reelkeeper.operations.core.workspace import trial_at

    return trial_at(configured()) is not None


def _is_recorded(run_id: str) -> bool:
    from reelkeeper.store.core import audit

    with reading() as session:
        return next(audit.events(session, run_id=run_id, limit=1), None) is not None


def _show(report: Any, most: int) -> None:  # noqa: ANN401  a Report or a SyncReport, which are not loaded yet
    if _plan_id(report):
        with store() as engine:
            show_plan(engine, report.plan.id, most, report.plan if report.dry_run else None)
    else:
        found = ((name.replace("_", " "), value) for name, value in plain(report).items())
        rows = [row for name, value in found if name not in _SHOWN_APART and value for row in _rows(name, value)]
        table(("!found", "what"), rows)
    if adoption := getattr(report, "adoption", None):
        from reelkeeper.rules.sync.adoption import document

        screen.show(document(adoption, dry_run=report.dry_run))


def show_plan(engine: "Engine", plan_id: str, most: int, plan: "PlanSummary | None" = None) -> None:
    """Print a saved plan, at most `most` items of it; `plan` is its summary, if read already. Raises NotFound."""
    from reelkeeper.operations.lifecycle import plan_document, plans

    saved = plans.load(engine, plan_id, most=most, plan=plan)
    screen.show(plan_document.document(engine, saved, most, names_users=True))


_SHOWN_APART = {"flow", "dry run", "refusal", "adoption"}
_WORD = 40  # characters; longer values are sentences


def _rows(name: str, value: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401  a field of a report
    """Return the rows of a field: one for each sentence, one for all names."""
    words = [str(item) for item in value] if isinstance(value, list) else []
    if any(len(word) > _WORD for word in words):
        yield from ((name if number == 0 else "", word) for number, word in enumerate(words))
    else:
        yield name, ", ".join(words) or value


def _next_step(flow: str, params: list[str], report: Any) -> str:  # noqa: ANN401  as above
    words = [f"--param {shlex.quote(param)}" for param in params]
    words += [f"--plan {_plan_id(report)}"] if _plan_id(report) else []
    return " ".join(["reelkeeper run", flow, "--apply", *words])


def _plan_id(report: object) -> str | None:
    return getattr(getattr(report, "plan", None), "id", None)
