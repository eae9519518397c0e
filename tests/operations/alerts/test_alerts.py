"""`observe`: state and message in one transaction, on both databases."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import NotFound
from reelkeeper.model.alerts import AlertRule, EndedRun, Finding, Picture, Severity
from reelkeeper.operations.alerts import alerts as operation
from reelkeeper.operations.alerts.alerts import Observed, observe, report_runs
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.lifecycle import policies
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.store.alerts import alerts as stored
from reelkeeper.store.core.deployment import record_beat
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import alerts, outbox, snoozes
from tests.marks import marked
from tests.policies import put_in_force
from tests.posts import post


def finding(scope: str = "total", **other: Any) -> Finding:  # noqa: ANN401  any field of a finding
    fields = {"rule": "budget", "period": "2999-11", "level": "80", "severity": Severity.WARNING}
    return Finding(**{**fields, "scope": scope, "title": f"{scope} at 80 %", "text": "Spend is high.", **other})


def seen(engine: sa.Engine, *findings: Finding) -> Observed:
    return observe(engine, findings, rules={"budget"}, run_id="run")


def messages(engine: sa.Engine) -> list[tuple[str, str, str]]:
    with reading(engine) as session:
        rows = session.execute(sa.select(outbox).order_by(outbox.c.id)).all()
    return [(row.kind, row.state, row.payload["title"]) for row in rows]


def pretend_tried(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.update(outbox).values(attempts=1))


def test_an_alert_is_sent_once_and_its_resolution_once(engine: sa.Engine) -> None:
    assert seen(engine, finding()) == Observed(opened=1, repeated=0, resolved=0, snoozed=0)
    pretend_tried(engine)
    assert seen(engine, finding()) == Observed(0, 0, 0, 0)
    assert seen(engine) == Observed(0, 0, resolved=1, snoozed=0)
    assert seen(engine) == Observed(0, 0, 0, 0)
    assert messages(engine) == [
        ("alert", "waiting", snapshot("total at 80 %")),
        ("resolve", "waiting", snapshot("Over: total at 80 %")),
    ]


def test_an_incident_over_before_the_first_attempt_is_not_reported(engine: sa.Engine) -> None:
    seen(engine, finding())
    assert seen(engine).resolved == 1
    assert messages(engine) == [("alert", "withdrawn", snapshot("total at 80 %"))]
    seen(engine, finding())  # nobody has heard of it yet
    assert messages(engine)[1:] == [("alert", "waiting", snapshot("total at 80 %"))]


def test_an_alert_sent_by_the_second_sink_alone_is_also_resolved(engine: sa.Engine) -> None:
    seen(engine, finding())
    with transaction(engine, "test") as session:
        session.execute(sa.update(outbox).values(copied_at=now(session)))
    assert seen(engine).resolved == 1
    assert [(kind, state) for kind, state, _ in messages(engine)] == [("alert", "waiting"), ("resolve", "waiting")]


def test_a_critical_alert_is_sent_even_after_it_is_resolved(engine: sa.Engine) -> None:
    seen(engine, finding(severity=Severity.CRITICAL))
    seen(engine)
    assert [kind for kind, state, _ in messages(engine) if state == "waiting"] == ["alert", "resolve"]


def test_a_resolution_waits_for_the_message_that_it_follows(engine: sa.Engine) -> None:
    seen(engine, finding())
    pretend_tried(engine)
    seen(engine)
    with reading(engine) as session:
        first, second = session.execute(sa.select(outbox).order_by(outbox.c.id)).all()
    assert (second.after_id, second.alert_ids) == (first.id, first.alert_ids)


def test_five_alerts_at_once_are_a_message_each_and_so_are_their_ends(engine: sa.Engine) -> None:
    seen(engine, *(finding(f"user:{number}") for number in range(5)))
    assert [kind for kind, *_ in messages(engine)] == ["alert"] * 5
    pretend_tried(engine)
    assert seen(engine).resolved == 5
    assert [kind for kind, *_ in messages(engine)[5:]] == ["resolve"] * 5


def test_many_alerts_at_once_are_sent_in_one_message_that_lists_all(engine: sa.Engine) -> None:
    found = [finding(f"user:{number}") for number in range(6)]
    assert seen(engine, *found).opened == 6
    assert messages(engine) == [("digest", "waiting", snapshot("6 alerts at once"))]
    with reading(engine) as session:
        row = session.execute(sa.select(outbox)).one()
    assert len(row.alert_ids) == 6
    assert all(any(item.title in line for line in row.payload["lines"]) for item in found)
    pretend_tried(engine)
    assert seen(engine).resolved == 6
    assert messages(engine)[1:] == [("resolve", "waiting", snapshot("6 alerts are over"))]


def test_what_is_over_before_a_digest_is_sent_is_struck_from_it(engine: sa.Engine) -> None:
    found = [
        finding(f"user:{number}", severity=Severity.CRITICAL if number == 5 else Severity.WARNING)
        for number in range(6)
    ]
    seen(engine, *found)
    assert seen(engine, *found[:2]).resolved == 4
    with reading(engine) as session:
        digest = session.execute(sa.select(outbox).where(outbox.c.kind == "digest")).one()
    assert [any(item.title in line for line in digest.payload["lines"]) for item in found] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    assert (len(digest.alert_ids), digest.payload["title"]) == (3, snapshot("3 alerts at once"))
    assert [(kind, state) for kind, state, _ in messages(engine)] == [
        ("digest", "waiting"),
        ("resolve", "waiting"),
    ]  # of the critical one
    seen(engine, *found)  # nobody has heard of three yet
    assert len(messages(engine)) == 5


def test_a_digest_of_which_all_is_over_is_not_sent(engine: sa.Engine) -> None:
    seen(engine, *(finding(f"user:{number}") for number in range(6)))
    seen(engine)
    assert [(kind, state) for kind, state, _ in messages(engine)] == [("digest", "withdrawn")]


def test_a_hundred_at_once_are_all_listed(engine: sa.Engine) -> None:
    seen(engine, *(finding(f"user:{number}") for number in range(100)))
    assert [title for _, _, title in messages(engine)] == [
        snapshot("100 alerts at once, 1 to 40"),
        snapshot("100 alerts at once, 41 to 80"),
        snapshot("100 alerts at once, 81 to 100"),
    ]
    with reading(engine) as session:
        rows = session.execute(sa.select(outbox.c.alert_ids)).scalars().all()
        known = session.execute(sa.select(alerts.c.id)).scalars().all()
    assert sorted(alert_id for row in rows for alert_id in row) == sorted(known)


def test_a_critical_alert_repeats_until_acknowledged(engine: sa.Engine) -> None:
    critical = finding(severity=Severity.CRITICAL)
    seen(engine, critical)
    _pass(engine, hours=4)
    assert seen(engine, critical).repeated == 1
    (alert,) = _listed(engine)
    operation.acknowledge(engine, alert.id, author="ann")
    _pass(engine, hours=4)
    assert seen(engine, critical) == Observed(0, 0, 0, 0)
    assert [(listed_alert.state, listed_alert.acknowledged_by) for listed_alert in _listed(engine)] == [
        ("acknowledged", "ann")
    ]
    with pytest.raises(NotFound) as refused:
        operation.acknowledge(engine, alert.id, author="ann")
    assert marked(refused.value) == snapshot(
        "no firing alert 'ID' without an acknowledgement. To see the open ones: reelkeeper alerts list"
    )


def test_a_snooze_silences_alerts_until_it_ends(engine: sa.Engine) -> None:
    snooze_id = operation.snooze(engine, "budget", scope="total", seconds=60, author="ann", reason="known")
    with reading(engine) as session:
        until = session.execute(sa.select(snoozes.c.until)).scalar_one()
        assert timedelta() < until - now(session) <= timedelta(seconds=60)
    assert seen(engine, finding()).snoozed == 1
    assert seen(engine, finding("tier:free"), finding()) == Observed(opened=1, repeated=0, resolved=0, snoozed=1)
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, finding("tier:free"), finding()).opened == 1
    with pytest.raises(NotFound):
        operation.end_snooze(engine, snooze_id)


def test_a_snooze_runs_out_by_itself(engine: sa.Engine) -> None:
    operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    seen(engine, finding())
    with transaction(engine, "test") as session:
        session.execute(sa.update(snoozes).values(until=now(session)))
    assert seen(engine, finding()).opened == 1


@pytest.mark.parametrize("count", [1, 6], ids=["alone", "in one message with others"])
def test_what_still_fires_when_its_snooze_ends_is_repeated_once_and_its_end_is_told(
    engine: sa.Engine, count: int
) -> None:
    found = [finding(f"tier:{number}") for number in range(count)]
    assert seen(engine, *found).opened == count
    pretend_tried(engine)
    snooze_id = operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    assert seen(engine, *found) == Observed(0, 0, 0, snoozed=0)
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, *found) == Observed(0, repeated=count, resolved=0, snoozed=0)
    assert seen(engine, *found) == Observed(0, 0, 0, 0)
    assert seen(engine).resolved == count
    assert [kind for kind, _, _ in messages(engine)][-1] == "resolve"
    assert seen(engine, *found).opened == 0  # in the same period


def test_what_is_over_before_its_repetition_in_a_digest_is_sent_is_struck_from_it_and_its_end_is_told(
    engine: sa.Engine,
) -> None:
    found = [finding(f"tier:{number}") for number in range(7)]
    seen(engine, *found)
    pretend_tried(engine)
    snooze_id = operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, *found).repeated == 7
    assert seen(engine, *found[2:]).resolved == 2
    with reading(engine) as session:
        rows = session.execute(sa.select(outbox).order_by(outbox.c.id)).all()
    assert [(row.kind, len(row.alert_ids)) for row in rows] == [
        ("digest", 7),
        ("digest", 5),
        ("resolve", 1),
        ("resolve", 1),
    ]


@pytest.mark.parametrize("count", [1, 6], ids=["alone", "in one message with others"])
@pytest.mark.parametrize("was_sent", [False, True])
def test_what_is_over_during_a_snooze_is_not_sent_any_more(engine: sa.Engine, count: int, was_sent: bool) -> None:
    found = [finding(f"tier:{number}") for number in range(count)]
    seen(engine, *found)
    if was_sent:
        pretend_tried(engine)
    snooze_id = operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    assert seen(engine).resolved == count
    assert {state for _, state, _ in messages(engine)} == {"waiting" if was_sent else "withdrawn"}
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, *found).opened == (0 if was_sent else count)  # in the same period


def test_what_was_acknowledged_is_not_repeated_when_its_snooze_ends(engine: sa.Engine) -> None:
    seen(engine, finding())
    (alert,) = _listed(engine)
    operation.acknowledge(engine, alert.id, author="ann")
    snooze_id = operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, finding()) == Observed(0, 0, 0, 0)


def test_at_the_end_of_a_snooze_an_alert_is_sent_that_has_fallen_to_a_lower_level(engine: sa.Engine) -> None:
    snooze_id = operation.snooze(engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    seen(engine, finding(level="100"))
    operation.end_snooze(engine, snooze_id)
    assert seen(engine, finding(level="80")).opened == 1
    assert messages(engine) == [("alert", "waiting", snapshot("total at 80 %"))]


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize(
    ("rule", "scope"), [("budget", "total"), ("forecast_breach", "total"), ("spend_limit", "all:jobs")]
)
def test_a_raised_budget_or_limit_is_told_anew_when_it_is_used_up(
    engine: sa.Engine, rule: AlertRule, scope: str, *, acknowledged: bool
) -> None:
    before = DEFAULTS.overridden(budget=BudgetPolicy(monthly_usd=Decimal(100)), admission=_monthly(100))
    put_in_force(engine, budget=before.budget, admission=before.admission)
    with reading(engine) as session:
        month = f"{now(session):%Y-%m}"
    full = finding(scope, rule=rule, period=month, level="100", severity=Severity.CRITICAL)
    other = finding("tier:free", rule=rule, period=month, level="100")
    assert observe(engine, [full, other], rules={rule}, run_id="run").opened == 2
    if acknowledged:
        for alert in listed(engine):
            operation.acknowledge(engine, alert.id, author="ann")
    raised = before.overridden(budget=BudgetPolicy(monthly_usd=Decimal(200)), admission=_monthly(200))
    policies.apply(engine, policies.effect_of(engine, raised), author="ann", reason="a campaign")
    assert [alert.scope for alert in listed(engine)] == ["tier:free"]
    half = finding(scope, rule=rule, period=month, level="50")
    assert observe(engine, [half, other], rules={rule}, run_id="run").opened == 1
    assert observe(engine, [full, other], rules={rule}, run_id="run").opened == 1


def _monthly(usd: int) -> AdmissionPolicy:
    return AdmissionPolicy(monthly_limit_usd=Decimal(usd))


def listed(engine: sa.Engine) -> list[stored.ListedAlert]:
    with reading(engine) as session:
        return stored.listed(session, everything=False)


def test_two_concurrent_runs_report_the_same_alert_once(engine: sa.Engine) -> None:
    found = [finding(f"user:{number}") for number in range(3)]
    with ThreadPoolExecutor(4) as pool:
        observed = list(pool.map(lambda _: seen(engine, *found), range(8)))
    assert sum(item.opened for item in observed) == 3
    assert len(messages(engine)) == 3


def test_alerts_are_sent_during_a_freeze(engine: sa.Engine) -> None:
    freeze(engine, by="test", reason="a mismatch")
    assert seen(engine, finding()).opened == 1


def test_text_of_others_is_stored_without_harm(engine: sa.Engine) -> None:
    seen(
        engine,
        finding("user:\x00\ud800x", title="a\x00b", text="\x1b[31m" + "x" * 10_000, figures=(("who\x00", "\ud83d"),)),
    )
    (alert,) = _listed(engine)
    assert (alert.scope, alert.title, alert.figures) == ("user:x", "ab", [["who", ""]])
    assert len(alert.text) == 10_004


def test_a_picture_waits_with_its_words(engine: sa.Engine) -> None:
    operation.post_picture(engine, "Forecast", "November", Picture("chart.png", b"\x89PNG"))
    post(engine, "A note")
    with reading(engine) as session:
        row = session.execute(sa.select(outbox).order_by(outbox.c.id).limit(1)).one()
    assert (row.kind, row.attachment, row.attachment_name) == ("chart", b"\x89PNG", "chart.png")
    assert messages(engine)[1] == ("note", "waiting", "A note")


def _listed(engine: sa.Engine) -> list[stored.ListedAlert]:
    with reading(engine) as session:
        return stored.listed(session, everything=True, limit=100)


def _pass(engine: sa.Engine, *, hours: float) -> None:
    """Let time pass, by moving the sent messages into the past."""
    with transaction(engine, "test") as session:
        for row in session.execute(sa.select(alerts)).all():
            at = row.told_at - timedelta(hours=hours)
            session.execute(sa.update(alerts).where(alerts.c.id == row.id).values(told_at=at))


def test_a_run_that_ended_badly_is_reported_once_unless_its_flow_has_succeeded_since(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        at = now(session)
        record_beat(session, "prune_cache", "later", 3600, 60)
    before, after = at - timedelta(hours=1), at + timedelta(hours=1)
    refused = "Flow run encountered an exception: OnTrial: no"
    runs = [
        EndedRun(True, "sync-catalog", "1", "one", "gone", before),
        EndedRun(True, "sync-catalog", "2", "two", "gone", before - timedelta(hours=1)),
        EndedRun(False, "tier-storage", "3", "three", refused, before),
        EndedRun(False, "prune-cache", "4", "four", "no", before),
    ]
    assert report_runs(engine, Ended(runs), ui_url=None) == 1
    assert report_runs(engine, Ended(runs), ui_url=None) == 0
    assert report_runs(engine, Ended([runs[-1]._replace(at=after)]), ui_url=None) == 1
    with reading(engine) as session:
        rows = session.execute(sa.select(alerts.c.rule, alerts.c.scope, alerts.c.run_id).order_by(alerts.c.run_id))
        assert [*map(tuple, rows)] == [
            ("run_crashed", "flow:sync_catalog", "1"),
            ("run_failed", "flow:prune_cache", "4"),
        ]


class Ended(Orchestrator):
    """A server with these runs; `tests/e2e/test_whole.py` asks a real one."""

    def __init__(self, runs: list[EndedRun]) -> None:
        self.runs = runs

    def ended_badly(self, flows: Iterable[str], since: datetime, limit: int = 100) -> list[EndedRun]:  # noqa: ARG002  all ours
        return [run for run in self.runs if run.at > since][:limit]

    def end_never_begun(self, flows: Iterable[str], after: timedelta) -> int:  # noqa: ARG002  as above
        return 0
