"""Plans as artifacts: what is somebody's text stays text."""

from tasks.plans import _plain


def test_an_id_that_would_be_a_cell_a_link_or_html_is_shown_as_it_is() -> None:
    assert _plain("a|b\n<img src=x> [x](http://y) _v_ é—") == (r"a\|b \<img src\=x\> \[x\]\(http\:\/\/y\) \_v\_ é—")
