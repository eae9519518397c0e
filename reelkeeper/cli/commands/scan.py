"""`scan`: show what is in a bucket, what it costs and what would lower that, with nothing but reads."""

import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import complain, emit, say, show
from reelkeeper.cli.words import INTERRUPTED, AsJson, writable
from reelkeeper.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from reelkeeper.operations.reports.scan import Sampling, Stop

_EVERY_SECONDS = {True: 0.5, False: 10.0}  # between two lines of progress, on a terminal or not
_MAX_SEED = 10**6


def scan(
    bucket: Annotated[str | None, typer.Option(help="Bucket; default: REELKEEPER_BUCKET.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Prefix, / for the whole bucket; default: REELKEEPER_PREFIX.")
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of keys under the prefix. May be repeated; default: REELKEEPER_KEY_PATTERN."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, max=1000, metavar="N", help="Encode N videos here, to see what compressing keeps.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw the sample by this seed, as printed by another.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", dir_okay=False, metavar="FILE", callback=writable, help="Also write a self-contained page."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a bucket, what it costs, and what would lower that. Nothing is written, not even a store.

    An API token that may only list and read suffices. Ctrl-C shows what is known so far, and exits with 130.
    """
    from reelkeeper.adapters.s3.listing import PAGE_KEYS
    from reelkeeper.model.key_patterns import compiled
    from reelkeeper.operations.core.workspace import open_bucket
    from reelkeeper.operations.reports import scan as operation
    from reelkeeper.rules.lifecycle.levers import nothing_under
    from reelkeeper.rules.policies import SHIPPED

    given = {"bucket": bucket, "prefix": prefix, "key_pattern": pattern}
    settings = configured(**{name: value for name, value in given.items() if value})
    if settings.endpoint_url is None and not (settings.state_dir / "s3").is_dir():
        raise Misconfigured(
            "no bucket is configured: set REELKEEPER_R2_ACCOUNT_ID, REELKEEPER_S3_ACCESS_KEY_ID, "
            "REELKEEPER_S3_SECRET_ACCESS_KEY and REELKEEPER_BUCKET; a token that may only read suffices"
        )
    limits, recipe = SHIPPED.policies.adoption, SHIPPED.policies.recipe
    terms = operation.Terms(compiled(settings.key_pattern), limits, datetime.now(UTC), recipe.codec, recipe.payback)
    with (
        open_bucket(settings) as opened,
        tempfile.TemporaryDirectory(dir=settings.scratch_dir) as scratch,
        _told() as tell,
        _caught() as stop,
    ):
        drawn = _sampling(sample, seed, Path(scratch)) if sample else None
        found = operation.scan(opened, terms, tell=tell, stop=stop, sampling=drawn)
        elsewhere = opened.look().folders() if not found.total.objects and not found.stopped else None
    if as_json:
        emit({"elsewhere": elsewhere, "scan": found} if elsewhere else found)
    if elsewhere:
        raise NotFound(nothing_under(found.prefix, elsewhere, PAGE_KEYS))
    from reelkeeper.operations.reports import scan_page

    if html:
        html.write_text(scan_page.page(found), encoding="utf-8")
    if not as_json:
        tables = (*scan_page.figures(found), scan_page.levers(found))
        show(table._replace(title=f"\n{table.title}") for table in tables)
        say(f"\n{scan_page.headline(found)}")
        told = [f"Ages and months are told {found.basis}."] if found.dated.objects else []
        for line in (*told, *found.remarks, *([f"{html}: the page is self-contained."] if html else [])):
            say(line)
    for failure in found.sample.failed if found.sample else ():
        complain(failure)
    if found.stopped:
        complain(found.stopped if found.is_listed else f"the scan is partial: {found.stopped}")
        raise typer.Exit(INTERRUPTED if stop.asked else 1)


def _sampling(clips: int, seed: int | None, scratch: Path) -> "Sampling":
    from reelkeeper.operations.lifecycle.transcode import Found, Terms, search
    from reelkeeper.operations.reports.scan import Sampling
    from reelkeeper.rules.lifecycle.worth import Payback
    from reelkeeper.rules.policies import SHIPPED

    # Whether it pays, the lever says, by what the sample kept: so here a clip is encoded at any price.
    recipe = SHIPPED.policies.recipe.model_copy(update={"payback": Payback(cpu_usd_per_hour=None)})
    terms = Terms(recipe, SHIPPED.policies.acceptance)

    def encode(source: Path, work: Path) -> Found:
        return search(source, work, terms)

    return Sampling(clips, secrets.randbelow(_MAX_SEED) if seed is None else seed, scratch, encode)


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """Show progress on stderr: in one line on a terminal, else now and then."""
    is_terminal, last = sys.stderr.isatty(), 0.0

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_SECONDS[is_terminal]:
            last = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[K")


@contextmanager
def _caught() -> "Iterator[Stop]":
    """Take Ctrl-C."""
    from reelkeeper.operations.reports.scan import Stop

    stop = Stop()
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
