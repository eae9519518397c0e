"""The demo's drawings in a terminal: bars of a month, and a message as in Slack."""

from datetime import date, timedelta

from inline_snapshot import snapshot
from rich.console import Console

from demo import money
from demo.money import bars, drawn
from reelkeeper.model.alerts import Message, MessageKind, Severity

FIRST = date(2026, 11, 1)


def month(*usd: float) -> dict[date, float]:
    return {FIRST + timedelta(days=place): amount for place, amount in enumerate(usd)}


def test_a_day_is_as_high_as_what_it_cost() -> None:
    lines = bars(month(4, 8, 0))
    assert [sum(line[10 + 2 * day : 11 + 2 * day] == "█" for line in lines) for day in range(3)] == [4, 8, 0]
    assert lines[0].startswith("    $8.00 ")
    assert lines[-1].split() == ["1"]


def test_the_limit_is_a_line_that_bars_go_through() -> None:
    lines = bars(month(5, 20, 5), 10)
    (limit,) = [line for line in lines if "╌" in line]
    assert limit.startswith("   $10.00 ╌╌█╌╌")


def test_expected_values_follow_in_a_lighter_colour() -> None:
    lines = bars(month(4, 8), expected={FIRST + timedelta(days=2): 4.0})
    assert [line[14:15] for line in lines[:-1]] == [""] * 4 + ["░"] * 4


def test_a_chart_without_days_says_so() -> None:
    assert bars({}) == snapshot(["no day with known spend"])
    assert len(bars(month(0, 0), 0)) == 9


def test_a_message_is_drawn_from_its_blocks_and_its_text_is_text() -> None:
    message = Message(
        kind=MessageKind.ALERT,
        severity=Severity.CRITICAL,
        title="Daily budget at 205 %",
        text="[bold red]Somebody[/] spent it.",
        figures=(("Spent", "$20.55"), ("Budget", "$10.00")),
        suggestion="Look.",
        footer="budget, total",
    )
    console = Console(width=120)
    with console.capture() as shown:
        console.print(drawn(message))
    for said in (
        "Critical: Daily budget at 205 %",
        "[bold red]Somebody[/]",
        "$20.55",
        "What to do: Look.",
        "budget, total",
    ):
        assert said in shown.get()
    assert max(map(len, shown.get().splitlines())) <= 88


def test_yesterday_had_the_spike_and_no_other_day() -> None:
    jobs = [money.jobs_on(FIRST - timedelta(days=ago), FIRST) for ago in range(1, money.DAYS)]
    assert jobs[0] > 2 * max(jobs[1:])
    assert min(jobs) > 200
