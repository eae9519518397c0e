import unicodedata

import pytest
from pydantic import TypeAdapter, ValidationError

from reelkeeper.model.ids import Id, earlier_id, flaw, id_of
from tests.odd_ids import NAMED, odd_ids

ID = TypeAdapter[str](Id)


@pytest.mark.parametrize("name", NAMED)
def test_what_services_have_is_an_id_and_stays_as_it_is(name: str) -> None:
    assert flaw(name) is None
    assert ID.validate_python(name) == id_of(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a" * 201,
        "a\n",
        "a\x00b",
        "\x1b[2J",
        "a\x7f",
        "a\x85b",
        "a\u2028b",
        "a\ud800",
        " a",
        "a ",
        "a\u00a0",
        "\ufffd",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert flaw(text)
    with pytest.raises(ValidationError):
        ID.validate_python(text)


def test_twins_stay_two() -> None:
    names = odd_ids(10_000, seed=4)
    assert {id_of(name) for name in names} == {*names}
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) < 9_500  # else there are no twins


def test_ids_of_earlier_versions_are_found() -> None:
    """The figures are of the version that made them."""
    assert [earlier_id(name) for name in ("ann", "gina@example.com", "日本", "a.versions")] == [
        "ann",
        "gina-example-com-599d34717b71",
        "x-cf2abf0c5be3",
        "a-versions-dc157b0b6c8c",
    ]
