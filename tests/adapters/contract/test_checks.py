"""The checks of the contract, which `reelkeeper doctor --contract` runs, on the servers that are available here."""

from datetime import UTC, datetime, timedelta

import pytest

from reelkeeper.adapters import contract
from reelkeeper.adapters.contract import CHECKS, Target, checks
from reelkeeper.errors import KeyRefused


@pytest.mark.long
@pytest.mark.parametrize("name", CHECKS)
def test_the_bucket_keeps_the_contract(target: Target, name: str, request: pytest.FixtureRequest) -> None:
    if name in {"clock", "expired delete", "stale delete"} and "miniflare" in request.node.name:
        pytest.skip("Cloudflare's simulator answers without a Date header; R2 itself has one")
    result = contract.check_one(target, name, CHECKS[name])
    assert result.passed, result.seen


def test_a_scratch_prefix_is_left_empty_and_reaches_nothing_else(target: Target) -> None:
    with contract.scratch(target) as place:
        place.put(place.key("a.mp4"), b"x")
        inside = place.bucket.prefix
        with pytest.raises(KeyRefused):
            place.put(f"{target.bucket.prefix}ann/one.mp4", b"x")
        with pytest.raises(KeyRefused):
            place.sign_delete(f"{target.bucket.prefix}ann/one.mp4", datetime.now(UTC))
        with pytest.raises(KeyRefused):
            place.bucket.delete([f"{target.bucket.prefix}ann/one.mp4"])
    assert [stored for page in target.bucket.under(inside).pages() for stored in page] == []


@pytest.mark.parametrize("prefix", ["", "ann/", ".contract-short/", f".contract-{'0' * 16}/ann/"])
def test_no_other_prefix_is_taken_for_a_scratch_one(target: Target, prefix: str) -> None:
    with pytest.raises(KeyRefused):
        contract.Scratch(target, target.bucket.prefix + prefix)


def test_videos_are_left_alone_and_listings_do_not_see_the_scratch(target: Target) -> None:
    key = f"{target.bucket.prefix}ann/one.mp4"
    target.bucket.put_bytes_once(key, b"a video", "video/mp4")
    with contract.scratch(target) as place:
        place.put(place.key("a.mp4"), b"x")
        assert [stored.key for page in target.bucket.pages() for stored in page] == [key]
    assert target.bucket.read_bytes(key) == b"a video"


def test_old_leftovers_of_a_killed_run_are_removed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    left = contract.Scratch(target, f"{target.bucket.prefix}.contract-{'a' * 16}/")
    left.put(left.key("a.mp4"), b"x")
    monkeypatch.setattr(contract, "CHECKS", {})
    assert list(contract.run(target)) == []
    assert len(left.listed()) == 1  # young: its run may be at work
    monkeypatch.setattr(contract, "ABANDONED_AFTER", timedelta(seconds=-60))
    assert list(contract.run(target)) == []
    assert left.listed() == {}


def test_a_failure_names_the_first_difference_and_cuts_a_long_key(target: Target) -> None:
    key = "x" * 1000

    def order(_: contract.Scratch) -> str:
        checks._same("the order", ["a", "b", key], ["a", key, "b"])
        return ""

    def names(_: contract.Scratch) -> str:
        checks._same("names", {"a", "b"}, {"a", key, "c"})
        return ""

    for check, told in ((order, "'b'"), (names, "2 missing")):
        result = contract.check_one(target, "odd keys", check)
        assert (result.passed, told in result.seen, len(result.seen) < 200) == (False, True, True)
