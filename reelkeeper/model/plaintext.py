"""Text of others, made harmless to store and to show. Markup is left alone: escaping it is up to whoever shows it."""

import re

# Control characters but for line ends and tabs (a terminal obeys them, PostgreSQL refuses NUL), halves of surrogate
# pairs (no encoding takes them), and what turns the direction of text or hides it (Unicode TR 36, section 3.1.1).
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def tame(text: str) -> str:
    """Drop control characters, direction marks and invisible characters; keep line ends and tabs."""
    return _HARMFUL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """Make one line of `text`, tamed, without space at its ends."""
    return " ".join(tame(text).split())
