"""Plans as artifacts: users' text is shown literally."""

from reelkeeper.model.document import Table
from tasks import markdown


def test_an_id_that_would_be_a_cell_a_link_or_html_is_shown_as_it_is() -> None:
    shown = markdown("A plan", [Table(("video", ">$"), [("a|b\n<img src=x> [x](http://y) _v_ é—", 1_000)])])
    assert shown.splitlines()[-1] == r"| a\|b, \<img src\=x\> \[x\]\(http\:\/\/y\) \_v\_ é— | 1,000 |"
