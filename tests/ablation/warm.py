"""A process that has imported the library once, and forks for each run of tests; in the fork, guards are switched off.

Started by `Copy` with the folder of the copy as the working directory. It says when all is imported, as what is changed
before stays changed here. It then reads a JSON object from each line of its input, and answers with pytest's exit code,
or null where a changed text needs a process that has imported nothing yet.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

_COLD: Final = 199  # the exit code of a fork that could not switch a guard off in place
_IS_FUNCTION: Final = 0x1  # CO_OPTIMIZED: modules and classes have it not
_TEST_LIBRARIES: Final = ("pytest", "hypothesis", "psycopg", "fastapi.testclient", "pandas", "alembic.command")


def preload() -> None:
    """Import the library, but for what reads the environment as it is imported, as Prefect does."""
    for name in _TEST_LIBRARIES:
        importlib.import_module(name)
    import reelkeeper  # noqa: PLC0415  from the copy, which is the working directory

    for module in pkgutil.walk_packages(reelkeeper.__path__, "reelkeeper."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    if "prefect" in sys.modules or threading.active_count() > 1:
        raise RuntimeError("what was imported has begun to run")


class Unlike(Exception):  # noqa: N818  it is no error
    """The change is not one of functions alone."""


def switch(source: str, changed: str, path: str) -> None:
    """Give each function of a loaded module its changed code. Raises Unlike where more than functions changed."""
    live: dict[CodeType, list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == path:  # isinstance would ask a dead weak proxy
            live.setdefault(one.__code__, []).append(one)
    for old, new in _changed(compile(source, path, "exec"), compile(changed, path, "exec")):
        if old not in live:
            raise Unlike
        for function in live[old]:
            try:
                function.__code__ = new
            except ValueError:  # it now closes over other names
                raise Unlike from None


def _changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Find the outermost functions whose code differs, in the bodies of a module and its classes."""
    inner, others = _nested(old), _nested(new)
    if _flat(old) != _flat(new) or len(inner) != len(others):
        raise Unlike
    for before, after in zip(inner, others, strict=True):
        if not before.co_flags & _IS_FUNCTION:
            yield from _changed(before, after)
        elif _deep(before) != _deep(after):
            yield before, after


def _nested(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _flat(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without its nested ones, and wherever its lines stand."""
    constants = tuple(one.co_qualname if isinstance(one, CodeType) else repr(one) for one in code.co_consts)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_code, constants, names, code.co_flags, code.co_argcount, code.co_kwonlyargcount)


def _deep(code: CodeType) -> tuple[Any, ...]:
    return (_flat(code), *(_deep(one) for one in _nested(code)))


def run(arguments: list[str], changed: dict[str, str], said: str, seconds: float) -> int | None:
    """Run pytest in a fork, in which the loaded modules at these paths have these texts; return its exit code."""
    child = os.fork()
    if not child:
        _be_the_child(arguments, changed, said)
    ends = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.monotonic() > ends:
            break
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it has left running
    if not ended:
        os.waitpid(child, 0)
        raise TimeoutError(f"pytest {arguments} has not ended after {seconds:.0f} s")
    code = os.waitstatus_to_exitcode(status)
    return None if code == _COLD else code


def _be_the_child(arguments: list[str], changed: dict[str, str], said: str) -> None:
    os.setsid()
    into = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(into, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    modules = {module.__file__: module for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
    code = 1
    try:
        for path, text in changed.items():
            if path in modules:  # or it is imported later, as changed
                switch(_SOURCES[path], text, path)
        code = int(sys.modules["pytest"].main(arguments))
    except Unlike:
        code = _COLD
    finally:
        sys.stdout.flush()
        os._exit(code)


_SOURCES: Final[dict[str, str]] = {}


def main() -> None:
    """Serve until the input ends."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path.cwd()))
    preload()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and Path(path).is_relative_to(Path.cwd()):
            _SOURCES[path] = Path(path).read_text()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(f"{json.dumps(run(**json.loads(line)))}\n")
        answers.flush()


if __name__ == "__main__":
    main()
