"""Open a command's settings, store and bucket, and report errors in them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reelkeeper.errors import Misconfigured

if TYPE_CHECKING:
    from reelkeeper.operations import Engine, Session
    from reelkeeper.operations.core.workspace import Workspace
    from reelkeeper.settings import Settings


def configured(**given: object) -> "Settings":
    """Read the settings, of which options may give some. Raises Misconfigured, which names each invalid variable.

    It never shows a value.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from reelkeeper.settings import Settings, settings

    try:
        configuration = settings()
        if given:
            configuration = type(configuration)(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        names = "|".join(rf"\b{name}\b" for name in Settings.model_fields if "_" in name)
        wrong = [": ".join([*_named(entry["loc"], given), entry["msg"]]) for entry in error.errors()]
        wrong = [re.sub(names, lambda found: f"REELKEEPER_{found[0].upper()}", text) for text in wrong]
        of_options = all(entry["loc"] and entry["loc"][0] in given for entry in error.errors())
        where = "options" if of_options else "settings (environment or .env)"
        raise Misconfigured(f"{where}: {'; '.join(wrong)}") from None
    except SettingsError as error:
        raise Misconfigured(f"settings: {error}: {error.__cause__}") from None
    if configuration.log_format == "json":
        from reelkeeper import logs

        logs.configure(configuration.log_level)
    return configuration


def _named(place: tuple[int | str, ...], given: Mapping[str, object]) -> list[str]:
    """Name the option or the variable that an error is about, if it is about one; `key_pattern` is --pattern."""
    if place and place[0] in given:
        return [f"--{str(place[0]).removeprefix('key_')}"]
    return [f"REELKEEPER_{'_'.join(map(str, place)).upper()}"] if place else []


@contextmanager
def store(*, may_make: bool = True) -> Iterator["Engine"]:
    """Open only the store, for commands that need no bucket; those that watch a deployment may not make one."""
    from reelkeeper.operations import open_store

    with open_store(configured(), may_make=may_make) as engine:
        yield engine


@contextmanager
def reading() -> Iterator["Session"]:
    """Open a read-only snapshot of the store, for commands that only list."""
    from reelkeeper.operations import reading as snapshot

    with store() as engine, snapshot(engine) as session:
        yield session


@contextmanager
def workspace() -> Iterator["Workspace"]:
    """Open the store and its bucket, and check the bucket's identity."""
    from reelkeeper.operations.core.workspace import open_workspace

    with open_workspace(configured()) as opened:
        yield opened
