"""`simulate lifecycle`: compare policies on the real catalogue before applying one."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import dollars, emit, out, say, size, table
from reelkeeper.cli.words import AsJson, text_of, writable
from reelkeeper.rules.core.wording import DATED_BY_KEY, LEAST, contract_gate, many

if TYPE_CHECKING:
    from reelkeeper.operations import Engine, Session
    from reelkeeper.rules.policies import Policies
    from reelkeeper.simulation.lifecycle import Course, Outcome, Past, Span, Views
    from reelkeeper.simulation.lifecycle_fates import Trial

_DAY = timedelta(days=1)
_REPEATED = timedelta(days=30)  # days whose views and uploads are repeated
_MAX_BACK = 730
_LEAST_DAYS = 28  # days of a full month
_CELLS = 400_000  # videos times nights that are held in memory at once
_ASSUMED = (
    "each night at 00:00 UTC everything due is done: no limit of a run delays it, and notices are given in time",
    "tiers, holds and requests to keep are as of now; users' deletions happen when they did",
    "from today on, a video's views in any 30 days are those of its last 30 days and today; unknown views stay unknown",
    "an encode saves and costs as much as earlier ones, or as the policy expects; future refusals are not predicted",
    "what plans only try, to learn whether it pays, is left out",
    "no encode pays if R2's free allowance covers all that is stored today, also later",
    "each view reads the whole object from R2 once, as without a CDN; listings cost the same for all and are left out",
    "views by clients that could not play a codec are unknown: clients' codecs are not recorded",
)
_UPLOADS = {
    True: "the uploads of the last 30 whole days, as stored and with their views, are repeated every 30 days",
    False: "no further uploads",
}


group = typer.Typer(no_args_is_help=True, help="Try a policy on the catalogue. Changes nothing.")


@group.command()
def lifecycle(
    policy: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A document to compare with the policy in force. May be repeated."),
    ] = None,
    months: Annotated[int, typer.Option(min=0, max=60, help="Full months to simulate, after this one.")] = 12,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", help="Start on this past day, and count the later views that would have been lost."
        ),
    ] = None,
    infrequent_after: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=3650,
            metavar="DAYS",
            help="Also try each policy with an R2 rule that moves objects to Infrequent Access at this age in days.",
        ),
    ] = None,
    uploads: Annotated[bool, typer.Option(help="Repeat the uploads of the last 30 days, or assume none.")] = True,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, callback=writable, help="Also draw a chart of the months: .svg or .png."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate lifecycle policies on the real catalogue: bytes, R2's bill, CPU, retired videos and lost views.

    The policy in force and each document are simulated night by night, and compared with keeping everything. With
    --from it starts on a past day: a policy's regret is the recorded views of videos that it would have retired before.
    """
    from reelkeeper.operations.lifecycle.previews import failed_checks, plans_service_keys

    if picture is not None and picture.suffix not in {".svg", ".png"}:
        raise typer.BadParameter(f"--picture {picture}: the file must end in .svg or .png")
    with store() as engine, out.status("simulating", spinner="dots"):
        service_keys, failed = plans_service_keys(engine, configured()), failed_checks(engine, configured())
        outcome, limits = _play(
            engine, policy or [], months, since, infrequent_after, uploads=uploads, service_keys=service_keys
        )
    exceeds = {course.policy: _exceeds(course, outcome, limits) for course in outcome.courses}
    assumed = [*_ASSUMED, _UPLOADS[uploads]]
    if "{year}" in ",".join(configured().key_pattern):
        assumed.append(DATED_BY_KEY)
    if picture is not None:
        _draw(outcome, picture)
    if as_json:
        courses = [{**course._asdict(), "exceeds": exceeds[course.policy]} for course in outcome.courses]
        emit(
            {
                **outcome._asdict(),
                "courses": courses,
                "service_keys": service_keys,
                "unplayable_views": None,
                "assumptions": assumed,
            }
        )
        return
    _show(outcome, exceeds)
    if not service_keys:
        say(f"As in plans, {contract_gate(failed)}.")
    say("Assumptions:")
    for line in assumed:
        say(f"- {line}.")


def _play(
    engine: "Engine",
    files: Sequence[Path],
    months: int,
    since: str | None,
    infrequent: int | None,
    *,
    uploads: bool,
    service_keys: bool,
) -> "tuple[Outcome, dict[str, Policies]]":
    """Simulate the policies; also return them by the name of their course."""
    from reelkeeper.operations import now, reading
    from reelkeeper.operations.core.policies import at as at_version
    from reelkeeper.operations.core.policies import in_force
    from reelkeeper.operations.core.policy_document import read
    from reelkeeper.simulation.lifecycle import Record, simulate
    from reelkeeper.store.videos import history
    from reelkeeper.store.videos.views import recorded_days

    with reading(engine) as session:
        version, policies = in_force(session)
        shipped = at_version(session, 0)
        documents = [(file.stem, read(text_of(file), str(file), shipped)) for file in files]
        at = now(session)
        span = _span(at.date(), months, since)
        named: dict[str, Policies] = {f"in force (version {version})": policies}
        for name, document in documents:
            named[name if name not in named else f"{name} ({len(named)})"] = document
        variants = (None,) if infrequent is None else (None, infrequent)
        today = _midnight(span.today)
        trials = [
            _trial(session, name, tried, today, variants, service_keys=service_keys) for name, tried in named.items()
        ]
        record = Record(
            recorded_days(session),
            history.oldest(session) or span.start,
            history.leaving_by_day(session, _midnight(span.start)),
            history.unexplained_bytes(session),
        )
        outcome = simulate(trials, _batches(session, span), span, record, uploads=uploads)
    of_each = (tried for tried in named.values() for _ in variants)  # as courses are: keeping everything is before them
    return outcome, {course.policy: tried for course, tried in zip(outcome.courses[1:], of_each, strict=True)}


def _trial(
    session: "Session",
    name: str,
    policies: "Policies",
    as_of: datetime,
    variants: tuple[int | None, ...],
    *,
    service_keys: bool,
) -> "Trial":
    from reelkeeper.operations.lifecycle.plans import appraise
    from reelkeeper.simulation.lifecycle_fates import try_policies

    mark, worth = appraise(session, policies)
    return try_policies(name, policies, as_of, mark, worth, variants, keeps_contract=service_keys)


def _batches(session: "Session", span: "Span") -> "Iterator[tuple[Sequence[Past], Views]]":
    from reelkeeper.simulation.lifecycle import Views
    from reelkeeper.store.videos import history

    nights = (span.today - span.start).days + _REPEATED.days + 1
    for batch in history.replay(
        session,
        _midnight(span.start),
        _midnight(span.today),
        removed_since=_midnight(min(span.start, span.today - _REPEATED)),
        views_since=span.start - _REPEATED,
        at_once=min(4_000, _CELLS // nights),
    ):
        yield batch.videos, Views(batch.places, batch.days, batch.counts)


def _span(today: date, months: int, since: str | None) -> "Span":
    from reelkeeper.simulation.lifecycle import Span

    end = today.replace(day=1)
    for _ in range(months + 1):
        end = (end + 31 * _DAY).replace(day=1)
    if since is None:
        return Span(today, today, end)
    try:
        start = date.fromisoformat(since)
    except ValueError:
        raise typer.BadParameter(f"--from {since!r} is not a day; write e.g. 2026-09-01") from None
    if not today - _MAX_BACK * _DAY <= start < today:
        raise typer.BadParameter(f"--from {since}: give a day before {today}, at most {_MAX_BACK} days ago")
    return Span(start, today, end)


def _show(outcome: "Outcome", exceeds: dict[str, dict[str, str]]) -> None:
    from reelkeeper.rules.billing.pricing import within_allowance
    from reelkeeper.rules.core.wording import many

    span = outcome.span
    tried = outcome.courses[1:]
    rows = [_total(course) for course in outcome.courses]
    at_start = f"{size(outcome.stored_bytes)} stored in all at the start"
    title = f"{many(outcome.videos, 'video')}, {at_start}, from {span.start} to {span.end - _DAY}"
    table(("policy", ">stored at the end", ">R2 $", ">CPU $", ">net $", ">compressed", ">retired"), rows, title=title)
    say("net: the saving against keeping everything, after CPU costs.\n")
    if span.start < span.today:
        regrets = [
            (
                course.policy,
                course.regret.views,
                course.regret.videos,
                course.regret.users,
                ", ".join(f"{tier} {count:,}" for tier, count in course.regret.by_tier.items() if count) or "-",
            )
            for course in tried
        ]
        headings = ("policy", ">views lost", ">of videos", ">of users", "by tier")
        table(
            headings,
            regrets,
            title=f"Regret: recorded views from {span.start} to {span.today - _DAY}, of videos retired",
        )
    for course in outcome.courses:
        _show_months(course)
    for course in tried:
        _warn(course, exceeds[course.policy])
    is_free = within_allowance(outcome.courses[0].months[-1].stored_bytes)
    if is_free and span.start == span.today:  # what was stored on a past day is not what is stored
        say(within_allowance(outcome.stored_bytes))
    if outcome.unknown_views:
        of = many(outcome.unknown_views, "video")
        say(f"The views of {of} are unknown: no rule for cold videos acts on them, only the end of their retention.")
    if outcome.unseen:
        say(
            f"{many(outcome.unseen, 'video')} were retired by a rule since {span.start} and could not be viewed "
            "afterwards, so no policy's regret counts them."
        )


def _show_months(course: "Course") -> None:
    tiers = sorted({tier for month in course.months for tier in month.retired})
    headings = (
        "!month",
        ">stored",
        ">R2 $",
        ">CPU $",
        ">net $",
        ">compressed",
        *(f">retired {tier}" for tier in tiers),
    )
    rows = [
        (
            f"{month.month:%Y-%m}" + ("" if month.days >= _LEAST_DAYS else f" ({month.days} d)"),
            size(month.stored_bytes),
            *_money(month.r2_usd, month.cpu_usd, month.net_usd),
            month.compressed,
            *(month.retired.get(tier, 0) for tier in tiers),
        )
        for month in course.months
    ]
    table(headings, rows, title=f"\n{course.policy}")


def _money(r2_usd: Decimal, cpu_usd: Decimal, net_usd: Decimal) -> tuple[str, str, str]:
    r2, cpu, net = (dollars(amount * 10**6) for amount in (r2_usd, cpu_usd, net_usd))
    return r2, cpu, f"+{net}" if net_usd > 0 and net != LEAST else net


def _total(course: "Course") -> tuple[Any, ...]:
    months = course.months
    return (
        course.policy,
        size(months[-1].stored_bytes),
        *_money(
            sum((month.r2_usd for month in months), Decimal(0)),
            sum((month.cpu_usd for month in months), Decimal(0)),
            sum((month.net_usd for month in months), Decimal(0)),
        ),
        sum(month.compressed for month in months),
        sum(sum(month.retired.values()) for month in months),
    )


def _exceeds(course: "Course", outcome: "Outcome", named: "dict[str, Policies]") -> dict[str, str]:
    """Return the limits of one run that the first night of a policy would exceed, each with its figures."""
    from reelkeeper.model import Counts
    from reelkeeper.rules.lifecycle.guard import excesses

    tried = named.get(course.policy)
    if tried is None:
        return {}
    compressed, retired = course.due_at_once
    live = Counts(outcome.videos, outcome.stored_bytes)
    found = excesses(tried.limits, Counts(retired, course.due_bytes), live)
    if compressed > tried.lifecycle.compress_limit:
        found["compress_limit"] = f"{many(compressed, 'video')}, limit {tried.lifecycle.compress_limit:,}"
    return found


def _warn(course: "Course", exceeds: dict[str, str]) -> None:
    if exceeds:
        compressed, retired = course.due_at_once
        say(
            f"{course.policy}: the first night would compress {many(compressed, 'video')} and retire {retired:,}, more "
            "than one run does. It takes longer than shown, and a plan that exceeds a limit of retirements is refused:"
        )
        for limit, figures in exceeds.items():
            say(f"  {limit}: {figures}")


def _draw(outcome: "Outcome", file: Path) -> None:
    import pandas as pd

    from reelkeeper.adapters import charts

    rows = [
        {"month": month.month, "policy": course.policy, "usd": float(month.r2_usd + month.cpu_usd)}
        for course in outcome.courses
        for month in course.months
        if month.days >= _LEAST_DAYS
    ]
    notes = {}
    if outcome.span.start < outcome.span.today:
        notes = {course.policy: f"{many(course.regret.views, 'view')} lost" for course in outcome.courses[1:]}
    chart = charts.policies(
        pd.DataFrame(rows, columns=["month", "policy", "usd"]), notes, title="R2 and CPU by policy, dollars a month"
    )
    if file.suffix == ".svg":
        file.write_text(charts.svg(chart), encoding="utf-8")
    else:
        file.write_bytes(charts.png(chart))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
