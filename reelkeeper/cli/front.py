"""The command's app, its exit codes, and the handling of errors."""

import os
import select
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from reelkeeper import disk
from reelkeeper.cli.screen import complain
from reelkeeper.errors import DiskFull, LeaseLost, ReelkeeperError, StorageError
from reelkeeper.redaction import redacted

_EPILOG = (
    "Exit codes: 0 done · 1 failed · 2 misconfigured, or bad arguments · 3 frozen · 4 locked by another run · "
    "5 integrity in doubt · 6 some items failed, the rest is done · 7 schema version differs · 8 not found · "
    "9 refused, nothing was changed · 10 a flow is overdue"
)


class Front(TyperGroup):
    """Turns errors into one clear line and an exit code. An unexpected error is 1; `--debug` shows its traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  click's signature
        """Begin the command."""
        _stand_in()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  click's signature, of a click that typer brings itself
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (TyperException, typer.Exit, typer.Abort):  # ends meant by typer: wrong arguments, --help, Ctrl-C
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _reader_left():
                raise  # typer ends without a word
            if ctx.params.get("debug"):
                sys.stderr.write(redacted(traceback.format_exc()))
            error = _ours(error) or error
            complain(redacted(_in_words(error)))
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _stand_in() -> None:
    """Open the null device for each standard stream that was closed, as by cron or a supervisor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # guard streams.closed: a file or a connection gets a stream's number, and what is printed goes there
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8", errors="replace")  # noqa: SIM115  it stays
            os.set_inheritable(stream.fileno(), True)  # by ffmpeg and other children
            setattr(sys, name, stream)


def _reader_left() -> bool:
    """Check whether nobody reads the output any more, as after `| head`: no other broken pipe is meant."""
    output = select.poll()
    output.register(1, 0)  # of interest is only its closed other end, which is always reported
    return bool(output.poll(0))


def _ours(error: Exception) -> ReelkeeperError | None:
    """Find the cause of a library's error: a full disk, the store, or Prefect's server; else None.

    Only a loaded library can have raised it, so nothing is imported for this.
    """
    if isinstance(error, ReelkeeperError) and not isinstance(error, StorageError | LeaseLost):
        return None  # these two may follow from a full disk: under the embedded S3 server, or the store's heartbeat
    if full := _full_disk(getattr(error, "filename", None) if disk.is_full(error) else None):
        return full  # any other failure, such as of Prefect's own server, follows from that
    if "sqlalchemy" in sys.modules:
        import sqlalchemy as sa

        if isinstance(error, sa.exc.DBAPIError):
            from reelkeeper.settings import settings
            from reelkeeper.store.core.failures import explained

            return explained(error, sa.make_url(settings().store_url))
    url = os.environ.get("PREFECT_API_URL")
    if url and "httpx" in sys.modules:
        import httpx

        from reelkeeper.adapters.orchestrator import unanswered

        if isinstance(error, httpx.HTTPError) and url in str(getattr(error, "_request", None) and error.request.url):
            return unanswered(url, error)
    return None


def _full_disk(named: str | None) -> ReelkeeperError | None:
    """Name the full disk where the library did not: that of the file in the error, else our first full one."""
    if named:
        return disk.full(Path(str(named)), "the disk of the file that was being written", "Free some space")
    from pydantic import ValidationError

    from reelkeeper.settings import settings

    try:
        configured = settings()
    except (ValidationError, ReelkeeperError):
        return None
    remedy = "Free some space, or move the folder to a larger disk"
    for place, role in (
        (configured.state_dir, "state folder"),
        (configured.scratch, "scratch"),
        (tempfile.gettempdir(), "temp"),
    ):
        try:
            disk.require(Path(place), f"the disk of the {role}", f"{remedy} (REELKEEPER_STATE_DIR, _SCRATCH_DIR)")
        except DiskFull as full:
            return full
        except OSError:  # such as another user's folder: the error itself says more
            continue
    return None


def _in_words(error: Exception) -> str:
    if isinstance(error, ReelkeeperError | OSError):
        return "\n  ".join(filter(None, (str(error), getattr(error, "operator_remedy", ""))))
    first = next(iter(str(error).splitlines()), "")
    return f"unexpected {type(error).__name__}: {first}\n  for the traceback: reelkeeper --debug COMMAND"


app = typer.Typer(
    cls=Front,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"reelkeeper {version('reelkeeper')}")
        raise typer.Exit


@app.callback()
def front(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Keep an AI-video service on Cloudflare R2 affordable, and never lose a video.

    Cold videos are compressed, expired videos are retired and later deleted; both can be undone for 7 days, or 14 at
    the service's own keys. Flows change nothing without [bold]--apply[/]; `restore`, `hold`, `freeze` and `thaw` act
    at once, since they delete nothing; `takedown` asks first.
    """
