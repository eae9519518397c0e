"""Render a month as one self-contained page: pictures for each width and theme, each with its text and a table."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import jinja2

from reelkeeper.adapters import charts
from reelkeeper.adapters.charts import DARK, LIGHT, NARROW, WIDE, Picture
from reelkeeper.model.alerts import AlertState, Severity
from reelkeeper.model.document import Table, as_text
from reelkeeper.operations.reports import figures, tables, text
from reelkeeper.operations.reports.report import MonthReport
from reelkeeper.rules.core.wording import TRY_ANOTHER, usd

_PHONE = "(max-width: 640px)"
_DARK = "(prefers-color-scheme: dark)"  # screens only: paper is white


class Figure(NamedTuple):
    """A picture with its text and table. `sources` are (media query, data URI): the first that fits is shown."""

    id: str
    heading: str
    text: str
    table: Table
    sources: Sequence[tuple[str, str]] = ()
    image: str = ""


def render(template: str, as_of: datetime, **values: Any) -> str:  # noqa: ANN401  whatever the template shows
    """Render a template as HTML that loads nothing and runs no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reelkeeper"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["as_text"] = as_text
    return environment.get_template(template).render(as_of=as_of, light=LIGHT, dark=DARK, usd=usd, **values)


def page(report: MonthReport) -> str:
    """Render the page of a month."""
    worst = list(reversed(Severity))
    fires = sorted(
        (alert for alert in report.alerts if alert.state != AlertState.RESOLVED),
        key=lambda alert: (worst.index(alert.severity), -(alert.impact_microusd or 0)),
    )
    return render(
        "report.html",
        report.as_of,
        report=report,
        trial=text.trial(report.trial) if report.trial else "",
        tiles=text.tiles(report),
        figures=list(_figures(report)),
        bill=tables.bill(report),
        payers=tables.payers(report),
        makers=tables.makers(report),
        smaller=[tables.smaller(report), tables.machines(report)],
        fires=[alert for alert in fires if alert.rule != "saving"],
        over=[alert for alert in report.alerts if alert.state == AlertState.RESOLVED],
        advice=[alert for alert in fires if alert.rule == "saving"],
        try_another=TRY_ANOTHER,
    )


def _figures(report: MonthReport) -> Iterator[Figure]:
    daily = tables.daily(report)
    yield drawn(Figure("days", "Day by day", text.spend(report), daily), figures.spend(report))
    later = tables.months(report)
    yield drawn(Figure("month", "Where the month is going", text.month(report), later), figures.month(report))
    if (picture := figures.months(report)) is not None:
        yield drawn(Figure("months", "Month by month", text.months(report), later), picture)
    stock, savings = tables.stock(report), tables.savings(report)
    yield drawn(Figure("stored", "What is stored", text.storage(report), stock), figures.storage(report))
    yield drawn(Figure("saved", "What was saved", text.savings(report), savings), figures.savings(report))


def drawn(figure: Figure, picture: Picture) -> Figure:
    """Add a picture in each width and theme."""
    looks = (DARK, NARROW), (LIGHT, NARROW), (DARK, WIDE), (LIGHT, WIDE)
    *others, image = map(charts.data_uri, charts.svgs(picture, looks))
    media = f"screen and {_PHONE} and {_DARK}", _PHONE, f"screen and {_DARK}"
    return figure._replace(sources=tuple(zip(media, others, strict=True)), image=image)
