"""Globs of keys: what they match, what is refused, and how two of them relate."""

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.key_globs import covers, matcher, never_meet, require_glob

GLOBS = st.text(st.sampled_from("ab/.*?"), min_size=1, max_size=12)
KEYS = st.text(st.sampled_from("ab/."), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("glob", "key", "matches"),
    [
        ("drafts/*", "drafts/ann/one.mp4", True),
        ("drafts/*", "videos/drafts/one.mp4", False),
        ("*.webm", "ann/one.webm", True),
        ("*.webm", "ann/one.webm.mp4", False),
        ("videos/ann/*/g1-*.mp4", "videos/ann/v1/g1-0f.mp4", True),
        ("videos/ann/*/g1-*.mp4", "videos/ann/v1/g2-0f.mp4", False),
        ("clip-??.mp4", "clip-07.mp4", True),
        ("clip-??.mp4", "clip-7.mp4", False),
        ("aba*aba", "aba", False),
        ("one.mp4", "one.mp4", True),
        ("one.mp4", "onexmp4", False),
        ("[a]*", "a.mp4", False),
        ("*é*", "Ärger/é.mp4", True),
        ("*b", "a\nb", True),
    ],
)
def test_a_glob_matches_whole_keys(glob: str, key: str, matches: bool) -> None:
    assert bool(matcher([glob])(key)) is matches


@given(st.lists(GLOBS, min_size=1, max_size=3), KEYS)
def test_any_of_several_matches_as_a_shell_does(globs: list[str], key: str) -> None:
    assert bool(matcher(globs)(key)) is any(fnmatchcase(key, glob) for glob in globs)


@given(GLOBS, GLOBS, KEYS)
def test_the_relation_of_two_globs_holds_for_every_key(one: str, other: str, key: str) -> None:
    both = fnmatchcase(key, one), fnmatchcase(key, other)
    if covers(one, other):
        assert both != (False, True)
    if never_meet(one, other):
        assert both != (True, True)


@pytest.mark.parametrize(
    ("wide", "narrow"), [("a*", "ab*"), ("*", "?"), ("*.mp4", "k/*.mp4"), ("a?c", "abc"), ("a*", "a?"), ("a**", "a*")]
)
def test_a_wider_glob_is_known_as_one(wide: str, narrow: str) -> None:
    assert covers(wide, narrow)
    assert not covers(narrow, wide) or (wide, narrow) == ("a**", "a*")


def test_matching_is_fast_for_any_glob_and_key() -> None:
    hostile = [matcher(["*a" * 50 + "b"]), matcher(["a*" * 90 + "?"]), matcher(["*" * 99 + "b"]), matcher(["?*" * 90])]
    began = time.process_time()
    for matches in hostile:
        assert not matches("a" * 1024) or matches("a" * 1024)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("glob", ["", "*", "**", "a" * 201, "/a*", "a//b", "a\\b", "a\0", "a\n*"])
def test_a_glob_that_no_key_or_any_key_matches_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(glob)) if 0 < len(glob) < 200 else "200"):
        require_glob(glob)
