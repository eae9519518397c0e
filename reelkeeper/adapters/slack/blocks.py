"""Lay out a message in Slack's Block Kit, within its limits, and without anything that Slack would read as markup.

Text that a user could have written goes into `plain_text` objects, which Slack shows as they are; text that must be
mrkdwn (the notification, a picture's comment) is escaped: & < > (Slack, "Formatting text for app surfaces").
Limits: 50 blocks, header 150, section 3,000, ten fields of 2,000, and about 13,200 characters in total, which is not
documented (bolt-js issue 2509). Characters are counted in UTF-16, where an emoji has two.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from reelkeeper.adapters.second_sink import headline
from reelkeeper.model.alerts import Message, Verb, one_line, tame

MAX_CHARACTERS, MAX_BLOCKS = 12_000, 50
MAX_HEADER, MAX_SECTION, MAX_FIELD, MAX_FIELDS = 150, 3_000, 2_000, 10
_MAX_NOTIFIED, _MAX_FOOTER, _MAX_FIGURES, _MAX_FIGURE, _MAX_SUGGESTION = 300, 500, 40, 300, 1_500
_MAX_CONFIRMED = 300  # characters of a confirmation's text (Block Kit, "Confirmation dialog object")
LABELS: Final = {
    Verb.ACKNOWLEDGE: "I am on it",
    Verb.SNOOZE: "Quiet for 8 hours",
    Verb.WHY: "Why?",
    Verb.APPROVE: "Approve once",
}
_ROOM_FOR_NOTE = 1_000  # shorter cuts have only an ellipsis
_CUT = " … {} characters more: reelkeeper alerts list --json"

Block = dict[str, Any]


class Layout(NamedTuple):
    """A post: `text` is for the notification, in escaped mrkdwn."""

    text: str
    blocks: list[Block]


def lay_out(message: Message, *, has_buttons: bool = False) -> Layout:
    """Lay out a message as blocks; text that does not fit is cut, with a count of the rest.

    `has_buttons`: presses reach us, so buttons are added.
    """
    room = _Room()
    notified = escape(room.take(one_line(headline(message)), _MAX_NOTIFIED), _MAX_NOTIFIED)
    header = room.take(one_line(headline(message)), MAX_HEADER)
    footer = room.take(tame(message.footer), _MAX_FOOTER)
    figures = [f"{one_line(label)}\n{one_line(value)}".strip() for label, value in message.figures[:_MAX_FIGURES]]
    fields = [room.take(figure, _MAX_FIGURE) for figure in figures]
    advice = f"What to do: {message.suggestion}" if message.suggestion else ""
    suggestion = room.take(tame(advice), _MAX_SUGGESTION)
    body = room.take(tame(message.text), room.left)
    blocks: list[Block] = [{"type": "header", "text": _plain(header)}, *_sections(body)]
    blocks += [{"type": "section", "fields": [_plain(field) for field in row]} for row in _rows(fields)]
    blocks += [*_sections(suggestion), *_sections(_lines(message.lines, room))]
    if footer.strip():
        blocks.append({"type": "context", "elements": [_plain(footer)]})
    buttons = [*_links(message), *(_buttons(message) if has_buttons else ())]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    ending = sum(block["type"] in ("context", "actions") for block in blocks)  # the blocks that are kept of too many
    return Layout(notified, [*blocks[: MAX_BLOCKS - ending], *blocks[max(MAX_BLOCKS, len(blocks)) - ending :]])


def escape(text: str, most: int) -> str:
    """Escape text for mrkdwn, in at most `most` characters."""
    safe = "".join(_ESCAPES.get(character, character) for character in text)
    while length(safe) > most:  # rare: only for text that is mostly & < >
        text = text[: len(text) * 9 // 10]
        safe = "".join(_ESCAPES.get(character, character) for character in text)
    return safe


# guard alerts.inert: a user's name mentions everybody in the channel
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def length(text: str) -> int:
    """Count characters in UTF-16, as Slack may do."""
    return len(text) + sum(character > "\uffff" for character in text)


class _Room:
    """The number of characters left in a message."""

    def __init__(self) -> None:
        self.left = MAX_CHARACTERS

    def take(self, text: str, most: int) -> str:
        """Return `text`, cut to `most` and to the characters left, and deduct it."""
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


def _links(message: Message) -> Iterator[Block]:
    if message.link:
        yield {"type": "button", "text": _plain("Show the run"), "url": message.link}


def _buttons(message: Message) -> Iterator[Block]:
    """Return the buttons of an alert; their values identify the alert in the state that the message shows."""
    if not message.alert_id or message.fired_at is None:
        return
    value = f"{message.alert_id} {message.fired_at.isoformat()} {message.plan_id}".strip()
    verbs = [verb for verb in Verb if verb is not Verb.APPROVE or message.plan_id]
    for verb in verbs:
        button = {"type": "button", "action_id": verb.value, "value": value, "text": _plain(LABELS[verb])}
        yield button | ({"style": "danger", "confirm": _confirm(message)} if verb is Verb.APPROVE else {})


def _confirm(message: Message) -> Block:
    labels = {"title": "Approve this plan for one run?", "confirm": "Approve", "deny": "Cancel"}
    text = _plain(_first(one_line(message.title), _MAX_CONFIRMED))
    return {name: _plain(words) for name, words in labels.items()} | {"text": text}


def _lines(lines: Iterable[str], room: _Room) -> str:
    """Join the lines of a digest; those that do not fit are counted."""
    kept: list[str] = []
    waiting = [f"• {one_line(line)}" for line in lines]
    reserve = 100  # for the sentence with the number of lines left out
    for number, line in enumerate(waiting):
        if length(line) + 1 > room.left - reserve:
            kept.append(f"… {len(waiting) - number:,} more: reelkeeper alerts list")
            break
        room.left -= length(line) + 1
        kept.append(line)
    return "\n".join(kept)


def _sections(text: str) -> Iterator[Block]:
    """Split text into sections, at line ends if possible."""
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
