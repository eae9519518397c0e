"""Show a scan: in tables for terminal and page, in sentences, and as one self-contained page."""

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from functools import reduce

from reelkeeper.model.document import Table
from reelkeeper.model.money import MICRO
from reelkeeper.model.scan import Example, Kind, Part, Scan, Verdict
from reelkeeper.operations.reports.text import FULL, Tile
from reelkeeper.rules.core.wording import dollars, many, sentence, size
from reelkeeper.rules.lifecycle.levers import list_usd

_MONTHS = 12
_BY_AGE, _BY_MONTH = "By age", "By month"


def levers(scan: Scan) -> Table:
    """Tabulate what could be done about the bill, the largest first."""
    rows = [
        [
            f"{lever.title}\n{lever.why[:1].upper()}{lever.why[1:]}",
            str(lever.verdict),
            f"{'up to ' if lever.verdict is Verdict.UNKNOWN and lever.size_bytes else ''}{_usd(lever.usd_a_month)}",
            _usd(lever.once_usd),
        ]
        for lever in scan.levers
    ]
    return Table(["Lever", "Verdict", ">A month", ">Once"], rows, "What would lower the bill")


def figures(scan: Scan) -> Iterator[Table]:
    """Tabulate what is there: kinds, folders, users, ages, months, findings, and the objects to look at."""
    yield _parts("By kind", "Kind", scan.kinds, scan.total)
    if [part[1:] for part in scan.folders] != [part[1:] for part in scan.users]:
        yield _parts("By folder", "Folder", [part._replace(name=part.name or "(no folder)") for part in scan.folders])
    if scan.known_users:
        yield _parts(f"By user, of {scan.known_users:,}", "User", scan.users)
    yield _parts(_BY_AGE, "Age", _summed(scan.ages))
    yield _parts(_BY_MONTH, "Month", _latest(_summed(scan.months)))
    findings = [scan.duplicates._replace(name="duplicates (size and ETag)"), scan.empty]
    findings += [part for part in (scan.unfinished, scan.orphans) if part]
    yield _parts("Findings", "What", [*findings, Part("odd keys", scan.odd_keys)])
    examples = [_example("biggest", found) for found in scan.biggest]
    examples += [_example(f"{found.copies:,} copies", found) for found in scan.duplicated]
    examples += [_example("0 bytes", found) for found in scan.emptied]
    examples += [_example("odd key", found) for found in scan.odd]
    if examples:
        yield Table(["Object", "What", ">Bytes"], examples, "To look at")
    if scan.sample and scan.sample.clips:
        rows = [
            [clip.key, clip.rule, size(clip.size_bytes), size(clip.kept_bytes), f"{clip.cpu_seconds:.1f} s"]
            for clip in scan.sample.clips
        ]
        total = ["In all", "", size(scan.sample.size_bytes), size(scan.sample.kept_bytes), ""]
        caption = f"A sample, drawn by seed {scan.sample.seed}"
        yield Table(["Video", "Result", ">Bytes", ">Kept", ">CPU"], rows, caption, total)


def headline(scan: Scan) -> str:
    """Say in one sentence what is there and what it costs."""
    partial = "" if scan.is_listed else f"Partial, {scan.stopped}: so far "
    return (
        f"{partial}{many(scan.total.objects, 'object')} {_place(scan)}, {size(scan.total.size_bytes)}: "
        f"{_usd(scan.billed_usd)} a month for storage as R2 bills it if nothing else is stored, "
        f"{_usd(scan.list_usd)} without the free allowance and rounding."
    )


def tiles(scan: Scan) -> list[Tile]:
    """Return the key figures."""
    found = [
        Tile(
            "Objects",
            f"{scan.total.objects:,}",
            _place(scan) if scan.is_listed else f"{_place(scan)}, partial: {scan.stopped}",
            "" if scan.is_listed else "bad",
        ),
        Tile("Stored", size(scan.total.size_bytes), _growth(scan)),
        Tile(
            "Bill for storage", _usd(scan.billed_usd), f"a month; {_usd(scan.list_usd)} before allowance and rounding"
        ),
    ]
    best = next((lever for lever in scan.levers if lever.verdict is Verdict.WORTH), None)
    if best is None:
        return [*found, Tile("Largest lever", "none", "nothing that a listing shows is worth doing")]
    percent = int(best.usd_a_month * FULL / scan.billed_usd)
    return [
        *found,
        Tile("Largest lever", _usd(best.usd_a_month), f"less a month: {best.title.lower()}", "good", percent),
    ]


def page(scan: Scan) -> str:
    """Render the page as HTML that loads nothing and runs no script."""
    import pandas as pd  # noqa: PLC0415  the terminal needs none, and it takes 45 MB

    from reelkeeper.adapters import charts  # noqa: PLC0415  the same
    from reelkeeper.operations.reports.page import Figure, drawn, render  # noqa: PLC0415  the same

    by_age = pd.DataFrame(
        [(age, _group(part.name), part.size_bytes) for age, part in scan.ages], columns=["age", "tier", "size_bytes"]
    )
    stored = by_age.groupby(["age", "tier"], sort=False, as_index=False).sum()
    tables = {table.title: table for table in figures(scan)}
    ages = Figure("ages", "How old it is", _oldest(scan), tables.pop(_BY_AGE))
    pictures = [(ages, charts.storage(stored, _GROUPS))]
    months = sorted({month for month, _ in scan.months})
    if len(months) > 1 and all("-" in month for month in months):
        rows = [
            (date.fromisoformat(f"{month}-01"), _group(part.name), float(list_usd(part)))
            for month, part in sorted(scan.months, key=lambda item: _GROUPS[::-1].index(_group(item[1].name)))
        ]
        grown = charts.savings(pd.DataFrame(rows, columns=["day", "kind", "usd"]))
        text = (
            f"What is there today, by the month in which it was stored ({scan.basis}), in dollars a month without "
            f"allowance and rounding: {_growth(scan)}."
        )
        pictures.append((Figure("months", "How it grew", text, tables.pop(_BY_MONTH)), grown))
    return render(
        "scan.html",
        scan.as_of,
        scan=scan,
        headline=headline(scan),
        tiles=tiles(scan),
        levers=levers(scan),
        pictures=[drawn(figure, picture) for figure, picture in pictures],
        tables=list(tables.values()),
    )


_GROUPS = ("other", Kind.IMAGE, Kind.VIDEO)  # in pictures, from the palest colour


def _group(kind: str) -> str:
    return kind if kind in _GROUPS else _GROUPS[0]


def _parts(caption: str, heading: str, parts: Sequence[Part], total: Part | None = None) -> Table:
    rows = [_row(part.name, part) for part in parts]
    whole = max(1, sum(part.size_bytes for part in parts))
    shares = [part.size_bytes * FULL // whole for part in parts]
    headings = [heading, ">Objects", ">Bytes", ">A month"]
    return Table(headings, rows, caption, _row("In all", total) if total else (), shares)


def _row(name: str, part: Part) -> list[str]:
    return [name, f"{part.objects:,}", size(part.size_bytes), _usd(list_usd(part))]


def _example(what: str, found: Example) -> list[str]:
    return [f"{found.key}\n{found.note}" if found.note else found.key, what, size(found.size_bytes)]


def _summed(parts: Sequence[tuple[str, Part]]) -> list[Part]:
    sums: dict[str, Part] = {}
    for label, part in parts:
        sums[label] = sums.get(label, Part(label)).plus(part)
    return list(sums.values())


def _latest(months: Sequence[Part]) -> list[Part]:
    """Give the last months, after one part for all before them."""
    before, shown = months[:-_MONTHS], months[-_MONTHS:]
    return [*([reduce(Part.plus, before, Part(f"before {shown[0].name}"))] if before else []), *shown]


def _place(scan: Scan) -> str:
    return "in the whole bucket" if scan.prefix == "/" else f"under {scan.prefix}"


def _growth(scan: Scan) -> str:
    this = f"{scan.as_of:%Y-%m}"
    whole = [part for part in _summed(scan.months) if part.name < this][-3:]
    if not whole:
        return "all of it stored this month"
    if not all("-" in part.name for part in whole):
        return "growth unknown: keys have a year without a month"
    mean = sum(part.size_bytes for part in whole) // len(whole)
    *others, last = [part.name for part in whole]
    months = f"{', '.join(others)} and {last}, the last whole months" if others else f"{last}, the last whole month"
    return f"{size(mean)} more a month, the mean of {months} with any"


def _oldest(scan: Scan) -> str:
    ages = _summed(scan.ages)
    most = max(ages, key=lambda part: part.size_bytes, default=Part("nothing"))
    return f"{sentence(scan.basis)} The largest part, {size(most.size_bytes)}: {most.name}."


def _usd(amount: Decimal) -> str:
    return dollars(amount * MICRO)
