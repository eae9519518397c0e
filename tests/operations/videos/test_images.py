"""Input images are stored once by digest, found by other workers, and never treated as videos."""

import hashlib
from pathlib import Path

import pytest

from reelkeeper.errors import Frozen, NotAVideo
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.videos import images
from tests.faults.world import World

PNG = b"\x89PNG\r\n\x1a\n" + b"whatever comes then"
DIGEST = hashlib.sha256(PNG).hexdigest()


def test_an_image_is_kept_once_and_fetched_by_its_digest(world: World, tmp_path: Path) -> None:
    assert images.keep(world.workspace, PNG) == images.keep(world.workspace, PNG) == (DIGEST, len(PNG), "image/png")
    assert images.fetch(world.workspace.bucket, DIGEST, tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == PNG
    assert not images.fetch(world.workspace.bucket, "0" * 64, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_object_that_does_not_match_its_digest_is_not_used(world: World, tmp_path: Path) -> None:
    bucket = world.workspace.bucket
    bucket.put_bytes_once(bucket.image_key("1" * 64), PNG, "image/png")
    assert not images.fetch(bucket, "1" * 64, tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_images_are_not_listed_and_so_not_adopted_or_swept(world: World) -> None:
    before = [stored_object for page in world.workspace.bucket.pages() for stored_object in page]
    images.keep(world.workspace, PNG)
    assert [stored_object for page in world.workspace.bucket.pages() for stored_object in page] == before


@pytest.mark.parametrize("data", [b"", b"GIF89a and so on", PNG + bytes(images.MAX_BYTES)])
def test_a_file_that_is_no_image_or_too_large_is_refused(world: World, data: bytes) -> None:
    with pytest.raises(NotAVideo):
        images.keep(world.workspace, data)


def test_while_changes_are_frozen_none_is_taken_in(world: World) -> None:
    freeze(world.workspace.engine, by="eve", reason="a doubt")
    with pytest.raises(Frozen, match="a doubt"):
        images.keep(world.workspace, PNG)


def test_only_stored_images_get_a_url_for_providers(world: World) -> None:
    images.keep(world.workspace, PNG)
    assert DIGEST in (images.url_of(world.workspace.bucket, DIGEST, 60) or "")
    assert images.url_of(world.workspace.bucket, "0" * 64, 60) is None
