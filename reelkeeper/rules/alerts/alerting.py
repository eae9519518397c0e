"""Decide which findings are news, which repeat known alerts, and which alerts are resolved.

Rule, scope and period identify an incident; its level is its severity. Each level is reported once a period: a higher
one is news, a lower one is not. An incident without a period is reported again if it returns after it was resolved.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from reelkeeper.errors import GuardRefused, OnTrial
from reelkeeper.model.alerts import AlertRule, AlertState, Finding, Severity, one_line, tame

PLAN_REFUSED: Final = "plan_refused"  # the rule of an alert whose period is the plan's id
_REPEAT_CRITICAL_AFTER: Final = timedelta(hours=4)  # if nobody has acknowledged it: twice in a working day
DIGEST_ABOVE: Final = 5  # new alerts, above which they are sent as one message
_DAY_OR_MONTH = re.compile(r"\d{4}-\d\d(-\d\d)?")


class Known(NamedTuple):
    """An alert in the store."""

    id: str
    rule: str
    scope: str
    period: str
    level: str
    state: AlertState
    severity: Severity
    title: str
    first_at: datetime
    told_at: datetime | None
    is_told: bool
    message_id: int | None

    @property
    def is_open(self) -> bool:
        """Check whether it still fires, acknowledged or not."""
        return self.state != AlertState.RESOLVED


class Quiet(NamedTuple):
    """A snooze in force: of one scope, or of all."""

    rule: str
    scope: str | None


class Lifted(NamedTuple):
    """A snooze that is over, since `at`."""

    rule: str
    scope: str | None
    at: datetime


class FindingState(NamedTuple):
    """A finding, and the known alert of the same level."""

    finding: Finding
    known: Known | None
    is_told: bool  # people were told, at some level, that this incident goes on


@dataclass(slots=True)
class Decision:
    """Changes of alerts to write, and messages to send."""

    opened: list[FindingState] = field(default_factory=list)  # news
    repeated: list[FindingState] = field(default_factory=list)  # critical, or snoozed meanwhile; and not acknowledged
    silent: list[FindingState] = field(default_factory=list)  # known already
    snoozed: list[FindingState] = field(default_factory=list)  # news, but snoozed
    outlasted: list[Known] = field(default_factory=list)  # still fires, at a lower level
    superseded: list[Known] = field(default_factory=list)  # replaced by a higher level
    resolved: list[Known] = field(default_factory=list)  # over, and people are told so
    faded: list[Known] = field(default_factory=list)  # over, and people are not told
    muted: list[Known] = field(default_factory=list)  # of those, what a snooze silences, or a finding replaces


def decide(
    findings: Iterable[Finding],
    known: Sequence[Known],
    quiet: Collection[Quiet],
    *,
    rules: Collection[str],
    as_of: datetime,
    lifted: Collection[Lifted] = (),
) -> Decision:
    """Compare findings with known alerts. An alert of `rules` without a finding is resolved.

    `known` has every open alert of `rules`, and every alert of the incidents found, in any state. What still fires
    after a snooze of `lifted` is repeated.
    """
    decision = Decision()
    incidents: dict[tuple[str, str, str], list[Known]] = defaultdict(list)
    for alert in known:
        incidents[alert.rule, alert.scope, alert.period].append(alert)
    found = _highest(findings)
    replaced = {incident for finding in found.values() for incident in finding.replaces}
    for incident, finding in found.items():
        _judge(decision, finding, incidents.pop(incident, []), quiet, lifted, as_of)
    for (rule, scope, period), alerts in incidents.items():
        for alert in alerts:
            # guard alerts.judged: an alert whose rule was not evaluated is reported as resolved
            if alert.is_open and rule in rules:
                is_news = alert.is_told and not _is_past(period, as_of)
                # guard alerts.replaced: a foreseen excess is told as over at the moment at which it has come
                is_muted = is_news and ((rule, scope, period) in replaced or _is_quiet(quiet, rule, scope))
                (decision.resolved if is_news and not is_muted else decision.faded).append(alert)
                decision.muted += [alert] if is_muted else []
    return decision


def rank(level: str) -> float:
    """Return a level's figure, to order levels by; 0 without a figure."""
    try:
        figure = float(level)
    except ValueError:
        return 0
    return figure if figure == figure else 0  # noqa: PLR0124  NaN alone differs from itself


def _judge(
    decision: Decision,
    finding: Finding,
    alerts: list[Known],
    quiet: Collection[Quiet],
    lifted: Collection[Lifted],
    as_of: datetime,
) -> None:
    going_on = any(alert.is_told for alert in alerts if alert.is_open)
    announced = [alert for alert in alerts if alert.told_at and (finding.period or alert.is_told)]
    # One that a snooze has kept back is known to nobody: what it has fallen to is judged by itself.
    higher = [alert for alert in announced if alert.is_open and rank(alert.level) > rank(finding.level)]
    same = next((alert for alert in alerts if alert.level == finding.level), None)
    if higher:  # its level has fallen, and may rise again: no news either way
        top = max(higher, key=lambda alert: rank(alert.level))
        decision.outlasted.append(top)
        decision.superseded += [alert for alert in alerts if alert.is_open and alert is not top]
        return
    decision.superseded += [alert for alert in alerts if alert.is_open and alert is not same]
    announced_at = [alert.told_at for alert in announced if alert.told_at and rank(alert.level) >= rank(finding.level)]
    seen = FindingState(finding, same, going_on)
    if not announced_at:
        news = decision.opened
    elif not (same and same.state == AlertState.ACKNOWLEDGED) and (
        (
            finding.severity == Severity.CRITICAL
            # guard alerts.repeat: every run repeats a critical alert, until nobody reads them
            and as_of - max(announced_at) >= _REPEAT_CRITICAL_AFTER
        )
        # guard alerts.after_snooze: what still fires when its snooze ends is never told again
        or (going_on and _was_quiet(lifted, finding, max(announced_at)))
    ):
        news = decision.repeated
    else:
        decision.silent.append(seen)
        return
    (decision.snoozed if _is_quiet(quiet, finding.rule, finding.scope) else news).append(seen)


def _highest(findings: Iterable[Finding]) -> dict[tuple[str, str, str], Finding]:
    found: dict[tuple[str, str, str], Finding] = {}
    for each in findings:
        finding = _tamed(each)
        incident = (finding.rule, finding.scope, finding.period)
        if incident not in found or rank(finding.level) > rank(found[incident].level):
            found[incident] = finding
    worst_first = sorted(found.items(), key=lambda item: (-item[1].severity.weight, -(item[1].impact_microusd or 0)))
    return dict(worst_first)


def _tamed(finding: Finding) -> Finding:
    """Remove control characters, and cut long texts. A scope may contain text that a user chose."""
    return replace(
        finding,
        scope=one_line(finding.scope),
        period=one_line(finding.period),
        level=one_line(finding.level),
        title=one_line(finding.title),
        text=tame(finding.text),
        suggestion=tame(finding.suggestion),
        figures=tuple((one_line(label), one_line(value)) for label, value in finding.figures),
        replaces=tuple((rule, one_line(scope), one_line(period)) for rule, scope, period in finding.replaces),
    )


def _is_quiet(quiet: Collection[Quiet | Lifted], rule: str, scope: str) -> bool:
    return any(quiet_alert.rule == rule and quiet_alert.scope in (None, scope) for quiet_alert in quiet)


def _was_quiet(lifted: Collection[Lifted], finding: Finding, since: datetime) -> bool:
    return _is_quiet([snooze for snooze in lifted if snooze.at > since], finding.rule, finding.scope)


def _is_past(period: str, as_of: datetime) -> bool:
    """Return whether a day or month is over; the end of its alerts is then not news."""
    return bool(_DAY_OR_MONTH.fullmatch(period)) and period < f"{as_of:%Y-%m-%d}"[: len(period)]


class Trouble(StrEnum):
    """The kind of failure of a run."""

    FAILED = "failed"
    CRASHED = "crashed"
    LATE = "late"


_RULE_OF: Final[Mapping[Trouble, AlertRule]] = {
    Trouble.FAILED: "run_failed",
    Trouble.CRASHED: "run_crashed",
    Trouble.LATE: "run_late",
}
RULES: Final = tuple(_RULE_OF.values())
_HAPPENED: Final = {
    Trouble.FAILED: "failed",
    Trouble.CRASHED: "crashed: the process that ran it is gone",
    Trouble.LATE: "has not begun in time",
}
_ADVICE: Final = {
    Trouble.FAILED: "Its logs say why. What was done is kept, and the next run does the rest.",
    Trouble.CRASHED: "The next run finishes its work. If it happens again, check the worker's memory, disk and log.",
    Trouble.LATE: "Check that its work pool is not paused and has a running worker.",
}


def finding(trouble: Trouble, flow: str, *, run_name: str, message: str = "", url: str = "") -> Finding:
    """Make the finding for a failed run of `flow`. It is reported once, until the flow succeeds again."""
    name = flow.replace("-", "_")  # Prefect writes it with dashes
    figures = (("Run", run_name), *((("Look", url),) if url else ()))
    return Finding(
        rule=_RULE_OF[trouble],
        scope=scope(name),
        severity=Severity.WARNING,
        title=f"A run of {name} {_HAPPENED[trouble]}",
        text=message,
        suggestion=f"{_ADVICE[trouble]} To run it now: reelkeeper run {name} --apply",
        figures=figures,
    )


_RAISED: Final = re.compile(r"Flow run encountered an exception: (\w+): ")  # as Prefect writes it into the state
_PLANNED: Final = ("tier_storage", "expire_videos", "purge_retired")


def is_no_failure(trouble: Trouble, flow: str, message: str) -> bool:
    """Check whether a run was only refused: by a trial, as its person reads, or its plan, which has its own alert.

    A listing that is refused has no other alert than that of its run.
    """
    found = _RAISED.match(message) if trouble is Trouble.FAILED else None
    refused = {OnTrial.__name__, *([GuardRefused.__name__] if flow.replace("-", "_") in _PLANNED else [])}
    return found is not None and found[1] in refused


def scope(flow: str) -> str:
    """Name the scope of an alert about a run of `flow`."""
    return f"flow:{flow}"


UNFIT_MACHINE: Final = "unfit_machine"


def unfit_machine(machine: str, code: str, problem: str) -> Finding:
    """Make the finding for a machine that cannot work, or is not of this deployment; `code` names the kind of error.

    It is reported once, until a worker on that machine is found fit.
    """
    return Finding(
        rule=UNFIT_MACHINE,
        scope=machine_scope(machine),
        severity=Severity.WARNING,
        title=f"Machine {machine} takes no work: {code}",
        text=problem,
        suggestion="The other machines do its work. Once it can work again, start its worker, unless it still runs.",
        figures=(("Machine", machine), ("Code", code)),
    )


def machine_scope(machine: str) -> str:
    """Name the scope of an alert about a machine."""
    return f"machine:{machine}"


BUCKET_REFUSES: Final = "bucket_refuses"


def bucket_refuses(machine: str, problem: str) -> Finding:
    """Make the finding that the bucket takes no objects of a machine, which begins no job; told once, until it does."""
    return Finding(
        rule=BUCKET_REFUSES,
        scope="total",
        severity=Severity.CRITICAL,
        title="The bucket takes no objects: no job is begun",
        text=f"As machine {machine} asked: {problem}. It asks again every 15 seconds. What providers have made waits "
        "there until it expires.",
        suggestion="See what the bucket says: reelkeeper doctor. Jobs go on by themselves once it takes objects.",
    )


def no_room(machine: str, day: str, job_id: str, problem: str) -> Finding:
    """Make the finding that a job's video does not fit on a machine's scratch disk; told once for the jobs of a day."""
    return Finding(
        rule="no_room",
        scope=machine_scope(machine),
        period=day,
        severity=Severity.WARNING,
        title=f"A video is too large for the scratch disk of machine {machine}",
        text=f"Job {job_id}: {problem}. It is parked, and fetched again every ten minutes, by any machine, until it is "
        "given up; it is not made again. The other jobs go on.",
        suggestion="Give a machine a larger scratch disk (REELKEEPER_SCRATCH_DIR). To fetch it now: "
        f"reelkeeper jobs retry {job_id}",
    )
