"""A message as Slack's Block Kit, within its limits, and with nothing in it that Slack would take for markup.

Whatever a user could have written goes into `plain_text` objects, which Slack shows as they are; what must be mrkdwn
(the notification, the comment of a picture) is escaped: & < > (Slack, "Formatting text for app surfaces").
Limits: 50 blocks, header 150, section 3,000, field 2,000 and ten of them, and about 13,200 characters in all, which is
not documented (bolt-js issue 2509). Characters are counted as UTF-16 does, where an emoji has two.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from reelkeeper.adapters.second_sink import headline
from reelkeeper.model.alerts import Message, one_line, tame

MAX_CHARACTERS, MAX_BLOCKS = 12_000, 50
MAX_HEADER, MAX_SECTION, MAX_FIELD, MAX_FIELDS = 150, 3_000, 2_000, 10
_MAX_NOTIFIED, _MAX_FOOTER, _MAX_FIGURES, _MAX_FIGURE, _MAX_SUGGESTION = 300, 500, 40, 300, 1_500
_ROOM_FOR_NOTE = 1_000  # shorter text is cut by an ellipsis
_CUT = " … {} characters more: reelkeeper alerts list --json"

Block = dict[str, Any]


class Layout(NamedTuple):
    """What to post: `text` is what a notification shows, escaped mrkdwn."""

    text: str
    blocks: list[Block]


def lay_out(message: Message) -> Layout:
    """Lay a message out as blocks; what does not fit is cut, with the count of what is missing."""
    room = _Room()
    notified = escape(room.take(one_line(headline(message)), _MAX_NOTIFIED), _MAX_NOTIFIED)
    header = room.take(one_line(headline(message)), MAX_HEADER)
    footer = room.take(tame(message.footer), _MAX_FOOTER)
    figures = [_figure(label, value) for label, value in message.figures[:_MAX_FIGURES]]
    fields = [room.take(figure, _MAX_FIGURE) for figure in figures]
    advice = f"What to do: {message.suggestion}" if message.suggestion else ""
    suggestion = room.take(tame(advice), _MAX_SUGGESTION)
    body = room.take(tame(message.text), room.left)
    blocks: list[Block] = [{"type": "header", "text": _plain(header)}, *_sections(body)]
    blocks += [{"type": "section", "fields": [_plain(field) for field in row]} for row in _rows(fields)]
    blocks += [*_sections(suggestion), *_sections(_lines(message.lines, room))]
    if footer.strip():
        blocks.append({"type": "context", "elements": [_plain(footer)]})
    if message.link:
        button = {"type": "button", "text": _plain("Look at the run"), "url": message.link}
        blocks.append({"type": "actions", "elements": [button]})
    ending = sum(block["type"] in ("context", "actions") for block in blocks)  # what stays of too many
    return Layout(notified, [*blocks[: MAX_BLOCKS - ending], *blocks[max(MAX_BLOCKS, len(blocks)) - ending :]])


def escape(text: str, most: int) -> str:
    """Make text inert in mrkdwn, in at most so many characters."""
    safe = "".join(_ESCAPES.get(character, character) for character in text)
    while length(safe) > most:  # rare: only text that is mostly & < > grows by so much
        text = text[: len(text) * 9 // 10]
        safe = "".join(_ESCAPES.get(character, character) for character in text)
    return safe


# guard alerts.inert: a user's name calls everybody in the channel
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def length(text: str) -> int:
    """Count characters as Slack may: in UTF-16."""
    return len(text) + sum(character > "\uffff" for character in text)


class _Room:
    """The characters that are left in a message."""

    def __init__(self) -> None:
        self.left = MAX_CHARACTERS

    def take(self, text: str, most: int) -> str:
        """Give `text`, cut to `most` and to what is left, and count it."""
        most = min(most, self.left)
        if length(text) > most:
            note = _CUT.format(f"{len(text):,}") if most >= _ROOM_FOR_NOTE else "…"
            kept = _first(text, most - length(note))
            text = kept + (_CUT.format(f"{len(text) - len(kept):,}") if most >= _ROOM_FOR_NOTE else note)
        self.left -= length(text)
        return text


def _first(text: str, most: int) -> str:
    kept = text[: max(most, 0)]
    while length(kept) > most > 0:
        kept = kept[: len(kept) - (length(kept) - most + 1) // 2]
    return kept


def _figure(label: str, value: str) -> str:
    return f"{one_line(label)}\n{one_line(value)}".strip()


def _lines(lines: Iterable[str], room: _Room) -> str:
    """Put the lines of a digest together; those without room are counted."""
    kept: list[str] = []
    waiting = [f"• {one_line(line)}" for line in lines]
    reserve = 100  # for the sentence that says how many are left out
    for number, line in enumerate(waiting):
        if length(line) + 1 > room.left - reserve:
            kept.append(f"… {len(waiting) - number:,} more: reelkeeper alerts list")
            break
        room.left -= length(line) + 1
        kept.append(line)
    return "\n".join(kept)


def _sections(text: str) -> Iterator[Block]:
    """Split text into sections, at line ends where there are some."""
    while text.strip():
        piece = _first(text, MAX_SECTION)
        if len(piece) < len(text) and "\n" in piece.strip():
            piece = piece[: piece.rstrip().rfind("\n") + 1] or piece
        if piece.strip():
            yield {"type": "section", "text": _plain(piece.rstrip("\n"))}
        text = text[len(piece) :]


def _rows(fields: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter([field for field in fields if field])
    while row := list(islice(waiting, MAX_FIELDS)):
        yield row


def _plain(text: str) -> Block:
    return {"type": "plain_text", "text": text, "emoji": False}
