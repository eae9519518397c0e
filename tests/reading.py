"""What a person reads, in a form that a snapshot can hold: the same on each machine and in each run."""

import re
import textwrap
from typing import Any, Final

TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?")
UUID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
DRAWN: Final[dict[str, Any]] = {  # by a flow, or for a test of one
    "at": TIME,
    "run": UUID,
    "key": re.compile(r"\b[0-9a-f]{12}/videos/\S+-[0-9a-f]{16}\.mp4"),
    "prefix": re.compile(r"\b[0-9a-f]{12}/videos/"),
    "plan": re.compile(r"\b[0-9a-f]{12}\b"),
    "size": re.compile(r"[\d.]+ kB|\b[\d,]{5,}(?= bytes)"),
    "person": re.compile(r"(?<= by )\w+(?= *$)", re.MULTILINE),
}
_WIDTH: Final = 96  # characters, so that a snapshot fits into a line of source
_FRAMES: Final = re.compile("[─━│┃╭╮╰╯]+")
_PORT: Final = re.compile(r"(?<=127\.0\.0\.1:)\d+")


def as_read(text: object, *, only: str = "", **marks: object) -> str:
    """Replace what differs by run, and wrap the lines anew: `assert as_read(output, folder=tmp_path) == snapshot(...)`.

    A mark's name stands where its value was: <folder> for a path, <at> for what a pattern such as TIME matches.
    `only` leaves the lines that hold an id or a name: it must not be a word that may change, nor a bare number, which
    a time of day holds, too.
    """
    assert not only.isdigit(), f"only={only!r} would also leave a line with such a minute"
    out = _FRAMES.sub(" ", str(text))
    for name, value in marks.items():
        pattern = value if isinstance(value, re.Pattern) else re.compile(re.escape(str(value)))
        out = pattern.sub(f"<{name}>", out)
    out = _PORT.sub("<port>", out)
    lines = [" ".join(line.split()) for line in out.splitlines() if line.strip()]  # how wide a column is varies
    kept = [line for line in lines if only in line]
    assert kept or not only, out
    wrapped = (textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in kept)
    return "\n".join("\n  ".join(parts) for parts in wrapped)
