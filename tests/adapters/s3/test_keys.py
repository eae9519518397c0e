import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.adapters.s3.keys import MAX_KEY_BYTES, ParsedKey, blob_key, confined, key_name, parse_key
from reelkeeper.errors import KeyRefused
from reelkeeper.model import ids
from tests.adapters.hostile_keys import hostile_keys
from tests.odd_ids import odd_ids

PREFIX = "videos/"
IDS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", fullmatch=True),
    st.sampled_from(odd_ids(2_000, seed=7)),
    st.text(min_size=1, max_size=60),
).filter(lambda name: ids.flaw(name) is None)


@given(IDS, IDS, st.integers(1, 999_999_999), st.sampled_from(["mp4", "webm", "mov", "mkv", "m4v"]))
def test_a_key_that_is_made_reads_back_as_what_it_was_made_of(
    user_id: str, video_id: str, generation: int, extension: str
) -> None:
    key = blob_key(PREFIX, user_id, video_id, generation, extension)
    parsed = parse_key(PREFIX, key)
    assert parsed is not None
    assert (parsed.generation, parsed.extension) == (generation, extension)
    hashed = [name for name in (user_id, video_id) if "==" in key_name(name)]
    assert parsed.user_id == (None if hashed else user_id)
    assert hashed or parsed.video_id == video_id
    folder = key.removeprefix(PREFIX).split("/")
    assert folder[:2] == [key_name(user_id), key_name(video_id)]
    assert max(map(len, folder)) <= 200
    assert key != blob_key(PREFIX, user_id, video_id, generation, extension)


@pytest.mark.parametrize(
    ("user_id", "video_id", "generation", "extension"),
    [
        ("", "v", 1, "mp4"),
        ("a", "", 1, "mp4"),
        ("a", "v" * 201, 1, "mp4"),
        ("a", "v", 0, "mp4"),
        ("a", "v", -1, "mp4"),
        ("a", "v", 1, "mp4/x"),
        ("a", "v", 1, ""),
        ("a\n", "v", 1, "mp4"),
        ("a", "v\ud800", 1, "mp4"),
        (" a", "v", 1, "mp4"),
    ],
)
def test_no_key_is_made_of_parts_that_would_not_read_back(
    user_id: str, video_id: str, generation: int, extension: str
) -> None:
    with pytest.raises(KeyRefused):
        blob_key(PREFIX, user_id, video_id, generation, extension)


def test_no_two_ids_have_one_name_in_keys() -> None:
    names = odd_ids(10_000, seed=3)
    made = {key_name(name) for name in names}
    assert len(made) == 10_000
    assert all(re.fullmatch("[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}", name) for name in made)


@pytest.mark.parametrize(
    ("rest", "parsed"),
    [
        ("a=40b/Zoe=20K/g1-0123456789abcdef.mp4", ParsedKey("a@b", "Zoe K", 1, "0123456789abcdef", "mp4")),
        ("a=62/v/g1-0123456789abcdef.mp4", ParsedKey("a=62", "v", None, None, "mp4", 1)),  # `ab` is not escaped
        ("a=FF/v/g1-0123456789abcdef.mp4", ParsedKey("a=FF", "v", None, None, "mp4", 1)),
        ("year=2/v/g1-0123456789abcdef.mp4", ParsedKey("year=2", "v", None, None, "mp4", 1)),
        (f"a=={'0' * 64}/v/g1-0123456789abcdef.mp4", ParsedKey(None, "v", 1, "0123456789abcdef", "mp4")),
        ("ann/one/g12-0123456789abcdef.webm", ParsedKey("ann", "one", 12, "0123456789abcdef", "webm")),
        ("ann/one.mp4", ParsedKey("ann", "one", None, None, "mp4", 0)),
        ("ann/one.two.MP4", ParsedKey("ann", "one.two", None, None, "mp4", 0)),
        ("ann/one two.mp4", ParsedKey("ann", "one two", None, None, "mp4", 0)),
        ("日本/é.mp4", ParsedKey("日本", "é", None, None, "mp4", 0)),
        ("ann/one/the original (1).mov", ParsedKey("ann", "one", None, None, "mov", 1)),
        ("ann/one/g12-0123456789ABCDEF.mkv", ParsedKey("ann", "one", None, None, "mkv", 1)),
        ("ann/one.jpg", None),
        ("ann/one", None),
        ("ann.mp4", None),
        ("ann/one/two/three.mp4", None),
        ("ann/.mp4", None),
        ("ann//one.mp4", None),
        ("ann/one/../two.mp4", None),
        (".ann/one.mp4", None),
        ("ann/._one.mp4", None),
        (".reelkeeper-identity.json", None),
        ("", None),
    ],
)
def test_keys_of_our_shape_and_adoptable_ones_are_read(rest: str, parsed: ParsedKey | None) -> None:
    assert parse_key(PREFIX, PREFIX + rest) == parsed
    assert parse_key(PREFIX, "elsewhere/" + rest) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "videos",
        PREFIX,
        "video/a.mp4",
        "videos-of-others/a.mp4",
        "/videos/a.mp4",
        "Videos/a.mp4",
        " videos/a.mp4",
        "videos//a.mp4",
        "videos/a/",
        "videos/../secrets/a.mp4",
        "videos/a/..",
        "videos/./a.mp4",
        "videos/a\\..\\b.mp4",
        "videos/.uploads/a.mp4",
        "videos/a.versions/b.mp4",
        "videos/.versions/b.mp4",
        "videos/a\x00.mp4",
        "videos/a\n.mp4",
        "videos/a\x7f.mp4",
        "videos/a\x85.mp4",
        "videos/a\u2028.mp4",
        "videos/a\ud800.mp4",
        "videos/a\uffff.mp4",
        "videos/a.mp4 ",
        "videos/" + unicodedata.normalize("NFD", "ä") + ".mp4",
        "videos/" + "a" * 1018,
        "videos/" + "ä" * 509,
    ],
)
def test_the_jail_refuses_what_lies_outside_or_can_be_read_two_ways(key: str) -> None:
    with pytest.raises(KeyRefused):
        confined(PREFIX, key)


@pytest.mark.parametrize(
    "key", ["videos/a", "videos/a b.mp4", "videos/ä/日本.mp4", "videos/..a/b...mp4", "videos/" + "a" * 1017]
)
def test_the_jail_accepts_well_formed_keys(key: str) -> None:
    assert confined(PREFIX, key) == key


@pytest.mark.parametrize("seed", range(10))
def test_no_key_of_10_000_escapes(seed: int) -> None:
    """What passes is under the prefix under each of the readings that servers are known to have."""
    passed = [key for key in hostile_keys(1000, seed) if passes(key)]
    assert len(passed) > 50  # else the generator tests nothing
    for key in passed:
        assert len(key.encode()) <= MAX_KEY_BYTES
        for reading in (unicodedata.normalize("NFC", key), key.replace("\\", "/"), key.strip(), folded(key)):
            assert reading == key
        assert key.startswith(PREFIX)
        assert len(key) > len(PREFIX)


@given(st.text(max_size=40).map(lambda rest: PREFIX + rest))
def test_any_text_is_either_refused_or_read_alike_by_all(key: str) -> None:
    assert not passes(key) or folded(unicodedata.normalize("NFC", key)) == key


def passes(key: str) -> bool:
    try:
        return confined(PREFIX, key) == key
    except KeyRefused:
        return False


def folded(key: str) -> str:
    """Read a key as a file system would."""
    folded: list[str] = []
    for segment in key.split("/"):
        if segment == "..":
            folded[-1:] = []
        elif segment not in {"", "."}:
            folded.append(segment)
    return "/".join(folded)
