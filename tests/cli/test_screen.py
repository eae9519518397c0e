"""What is printed of users' and buckets' texts."""

from collections.abc import Callable

import pytest

from reelkeeper.cli.screen import complain, say, table

KEY = "ann/\x1b[2J\x1b]0;gone\x07\u202e4pm.mp4\x9b"


@pytest.mark.parametrize("show", [say, complain, lambda text: table(["key"], [[text]])])
def test_a_key_with_control_characters_is_spelt_and_a_terminal_obeys_none(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(KEY)
    said = "".join(capsys.readouterr())
    assert not set(said) & {"\x1b", "\x07", "\u202e", "\x9b"}
    assert r"ann/\x1b[2J\x1b]0;gone\x07\u202e4pm.mp4\x9b" in said
