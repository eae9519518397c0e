"""`s3`: the embedded S3 server, by itself."""

import signal
import threading
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import say
from reelkeeper.errors import Misconfigured

group = typer.Typer(no_args_is_help=True)


@group.callback()
def s3() -> None:
    """Run the embedded S3 server, for a machine without R2."""


@group.command()
def start(
    for_seconds: Annotated[float | None, typer.Option("--for", min=0, help="Stop after so many seconds.")] = None,
) -> None:
    """Run the embedded S3 server until Ctrl-C. Commands in the same state folder share it, and start faster."""
    settings = configured()
    if settings.endpoint_url:
        raise Misconfigured(f"{settings.endpoint_url} is set, so the embedded server is not used; unset it first")
    from reelkeeper.adapters.s3 import seaweed

    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with seaweed.running(settings.state_dir / "s3", settings.bucket) as endpoint:
        say(f"S3 at {endpoint.endpoint_url}, bucket {settings.bucket}, files in {settings.state_dir / 's3'}.")
        say("Reelkeeper finds it by itself in this state folder. From elsewhere:")
        say(f"  export REELKEEPER_S3_ENDPOINT_URL={endpoint.endpoint_url}")
        say(f"  export REELKEEPER_S3_ACCESS_KEY_ID={endpoint.access_key_id}")
        say(f"  export REELKEEPER_S3_SECRET_ACCESS_KEY={endpoint.secret_access_key}")
        say("Ctrl-C stops it.")
        done.wait(for_seconds)
    say("Stopped.")
