"""New, repeated and resolved alerts: `rules/alerting`."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.alerts import AlertState, Finding, Severity
from reelkeeper.rules.alerts.alerting import Decision, Known, Quiet, decide

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def finding(level: str = "80", **other: Any) -> Finding:  # noqa: ANN401  any field of a finding
    fields = {"rule": "budget", "scope": "total", "period": "2026-11", "severity": Severity.WARNING}
    return Finding(**{**fields, "level": level, "title": f"{level} %", "text": "", **other})


class Incidents:
    """Keeps what the store would keep from one observation to the next, and counts what people are told."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str, str], Known] = {}
        self.told: list[str] = []
        self.now = NOW
        self.ids = count()

    def observe(
        self, *findings: Finding, quiet: tuple[Quiet, ...] = (), rules: tuple[str, ...] = ("budget",)
    ) -> Decision:
        made = decide(findings, list(self.rows.values()), quiet, rules=rules, as_of=self.now)
        for known in made.superseded:
            self._change(known, state=AlertState.RESOLVED, is_told=False)
        for group in ("opened", "repeated", "silent", "snoozed"):
            for seen in getattr(made, group):
                item = seen.finding
                key = (item.rule, item.scope, item.period, item.level)
                new = Known(
                    str(next(self.ids)), *key, AlertState.FIRING, item.severity, item.title, NOW, None, False, None
                )
                row = self.rows.get(key, new)
                state = row.state if row.is_open else AlertState.FIRING
                self.rows[key] = row._replace(state=state, severity=item.severity, is_told=row.is_told or seen.is_told)
                if group in ("opened", "repeated"):
                    self.told.append(f"{group} {item.level}")
                    self.rows[key] = self.rows[key]._replace(told_at=self.now, is_told=True)
        for known in made.resolved:
            self.told.append(f"resolved {known.level}")
        for known in (*made.resolved, *made.faded):
            self._change(known, state=AlertState.RESOLVED, is_told=False)
        return made

    def acknowledge(self, level: str) -> None:
        (row,) = (row for row in self.rows.values() if row.level == level)
        self._change(row, state=AlertState.ACKNOWLEDGED)

    def _change(self, known: Known, **values: Any) -> None:  # noqa: ANN401  as above
        key = (known.rule, known.scope, known.period, known.level)
        self.rows[key] = self.rows[key]._replace(**values)


def test_a_finding_is_reported_once_and_its_end_once() -> None:
    incidents = Incidents()
    for _ in range(3):
        incidents.observe(finding())
    for _ in range(3):
        incidents.observe()
    assert incidents.told == ["opened 80", "resolved 80"]


def test_a_higher_level_is_news_and_a_lower_one_is_not() -> None:
    incidents = Incidents()
    for level in ("50", "80", "100", "80", "100", "150", "50"):
        incidents.observe(finding(level))
    incidents.observe()
    assert incidents.told == ["opened 50", "opened 80", "opened 100", "opened 150", "resolved 150"]


def test_the_highest_of_several_levels_found_at_once_counts() -> None:
    incidents = Incidents()
    incidents.observe(finding("50"), finding("150"), finding("100"))
    assert incidents.told == ["opened 150"]


def test_levels_are_compared_as_figures() -> None:
    incidents = Incidents()
    incidents.observe(finding("100"))
    incidents.observe(finding("80"))
    assert incidents.told == ["opened 100"]


def test_other_scopes_periods_and_rules_are_independent() -> None:
    incidents = Incidents()
    incidents.observe(finding(), finding(scope="tier:free"), finding(period="2026-11-24"), finding(rule="anomaly"))
    assert incidents.told == ["opened 80"] * 4


def test_an_incident_that_returns_within_its_period_is_not_reported_again() -> None:
    incidents = Incidents()
    for found in ((finding(),), (), (finding(),), ()):
        incidents.observe(*found)
    assert incidents.told == ["opened 80", "resolved 80"]


def test_an_incident_without_a_period_is_reported_each_time_it_returns() -> None:
    incidents = Incidents()
    silent = finding("", period="")
    for found in ((silent,), (silent,), (), (silent,), ()):
        incidents.observe(*found)
    assert incidents.told == ["opened ", "resolved ", "opened ", "resolved "]


def test_what_another_finding_replaces_is_not_over() -> None:
    incidents = Incidents()
    rules = ("budget", "forecast_breach")
    incidents.observe(finding("90", rule="forecast_breach"), rules=rules)
    incidents.observe(finding("100", replaces=(("forecast_breach", "total", "2026-11"),)), rules=rules)
    assert incidents.told == ["opened 90", "opened 100"]
    incidents.observe(rules=rules)
    assert incidents.told[2:] == ["resolved 100"]


def test_the_end_of_a_period_is_not_news() -> None:
    incidents = Incidents()
    incidents.observe(finding(period="2026-11-24"), finding(period="2026-11", scope="month"))
    incidents.now += timedelta(days=1)
    incidents.observe()
    assert incidents.told == ["opened 80", "opened 80", "resolved 80"]  # the month goes on


def test_an_unacknowledged_critical_alert_is_repeated_after_four_hours() -> None:
    incidents = Incidents()
    critical = finding(severity=Severity.CRITICAL)
    for _ in range(9):
        incidents.observe(critical)
        incidents.now += timedelta(hours=1)
    assert incidents.told == ["opened 80", "repeated 80", "repeated 80"]
    incidents.acknowledge("80")
    incidents.now += timedelta(hours=9)
    incidents.observe(critical)
    incidents.observe()
    assert incidents.told[3:] == ["resolved 80"]


def test_a_warning_is_not_repeated() -> None:
    incidents = Incidents()
    for _ in range(9):
        incidents.observe(finding())
        incidents.now += timedelta(hours=5)
    assert incidents.told == ["opened 80"]


def test_a_snooze_silences_alerts_and_those_still_firing_at_its_end_are_sent() -> None:
    incidents = Incidents()
    snoozed = incidents.observe(finding(), quiet=(Quiet("budget", None),))
    assert (len(snoozed.snoozed), incidents.told) == (1, [])
    incidents.observe(finding(), quiet=(Quiet("budget", "tier:free"),))
    assert incidents.told == ["opened 80"]


def test_a_level_reached_during_a_snooze_is_reported_at_its_end_and_so_is_its_resolution() -> None:
    incidents = Incidents()
    incidents.observe(finding("80"))
    incidents.observe(finding("100"), quiet=(Quiet("budget", "total"),))
    incidents.observe(finding("100"))
    incidents.observe()
    assert incidents.told == ["opened 80", "opened 100", "resolved 100"]


def test_after_a_reported_lower_level_the_end_of_a_snoozed_higher_one_is_reported() -> None:
    incidents = Incidents()
    incidents.observe(finding("80"))
    incidents.observe(finding("100"), quiet=(Quiet("budget", "total"),))
    incidents.observe()
    assert incidents.told == ["opened 80", "resolved 100"]


def test_a_snoozed_incident_that_fell_to_a_lower_level_is_reported_when_the_snooze_ends() -> None:
    incidents = Incidents()
    incidents.observe(finding("100"), quiet=(Quiet("budget", None),))
    incidents.observe(finding("80"), quiet=(Quiet("budget", None),))
    incidents.observe(finding("80"))
    incidents.observe(finding("80"))
    incidents.observe()
    assert incidents.told == ["opened 80", "resolved 80"]


def test_a_level_that_fell_during_a_snooze_is_no_news_where_people_know_of_as_high_a_one() -> None:
    incidents = Incidents()
    incidents.observe(finding("80"))
    incidents.observe(finding("100"), quiet=(Quiet("budget", None),))
    incidents.observe(finding("80"))
    assert incidents.told == ["opened 80"]
    incidents.observe(finding("100"))
    incidents.observe()
    assert incidents.told == ["opened 80", "opened 100", "resolved 100"]


def test_a_rule_that_was_not_evaluated_keeps_its_alerts() -> None:
    incidents = Incidents()
    incidents.observe(finding())
    incidents.observe(rules=("anomaly",))
    assert incidents.told == ["opened 80"]
    assert all(row.is_open for row in incidents.rows.values())


def test_the_worst_and_dearest_come_first() -> None:
    made = Incidents().observe(
        finding(scope="a", impact_microusd=5),
        finding(scope="b", severity=Severity.CRITICAL),
        finding(scope="c", impact_microusd=9),
        finding(scope="d", severity=Severity.NOTICE),
    )
    assert [seen.finding.scope for seen in made.opened] == ["b", "c", "a", "d"]


def test_control_characters_are_removed_from_findings() -> None:
    made = Incidents().observe(finding(scope="user:\x00a\u202eb\ud800", title="two\nlines\x1b[2J", text="kept\r\nline"))
    (seen,) = made.opened
    assert (seen.finding.scope, seen.finding.title, seen.finding.text) == ("user:ab", "two lines[2J", "kept\nline")


LEVELS = st.sampled_from(["", "50", "80", "100", "150"])
STEPS = st.lists(st.tuples(LEVELS | st.none(), st.booleans(), st.integers(0, 8)), max_size=30)


@given(STEPS)
def test_in_a_period_each_level_is_opened_once_and_only_upwards(steps: list[tuple[str | None, bool, int]]) -> None:
    incidents = Incidents()
    for level, snoozed, hours in steps:
        quiet = (Quiet("budget", None),) if snoozed else ()
        found = [] if level is None else [finding(level, severity=Severity.CRITICAL)]
        incidents.observe(*found, quiet=quiet)
        assert sum(row.is_open for row in incidents.rows.values()) == len(found)
        incidents.now += timedelta(minutes=hours)
    opened = [line.removeprefix("opened ") for line in incidents.told if line.startswith("opened")]
    assert len(opened) == len(set(opened))
    assert opened == sorted(opened, key=lambda level: float(level or 0))


@given(STEPS)
def test_without_snoozes_people_always_know_whether_it_fires(steps: list[tuple[str | None, bool, int]]) -> None:
    incidents = Incidents()
    for level, _, hours in steps:
        incidents.observe(*([] if level is None else [finding(level, period="", severity=Severity.CRITICAL)]))
        incidents.now += timedelta(minutes=hours)
        known = bool(incidents.told) and not incidents.told[-1].startswith("resolved")
        assert known == (level is not None)
