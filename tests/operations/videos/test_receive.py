"""Videos that somebody puts by a presigned URL: published as announced, or not at all."""

import hashlib
from pathlib import Path

import pytest

from reelkeeper.errors import InputRefused, KeyReused, ObjectChanged
from reelkeeper.model import Grace
from reelkeeper.model.requests import Upload
from reelkeeper.operations.videos import receive
from reelkeeper.operations.videos.complete import complete
from reelkeeper.operations.videos.receive import Announced
from tests.faults.world import World


def begin(world: World) -> Upload:
    data = world.clip.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    upload, _ = receive.begin(world.workspace, Announced("ann", "new", len(data), md5, "mp4"), "key", url_seconds=600)
    return upload


def test_other_bytes_of_the_same_size_are_not_published(world: World, tmp_path: Path) -> None:
    upload = begin(world)
    data = world.clip.read_bytes()
    world.workspace.bucket.put_bytes_once(upload.key, data[:-1] + bytes([data[-1] ^ 1]), "video/mp4")
    with pytest.raises(ObjectChanged):
        complete(world.workspace, upload.id, scratch=tmp_path, run_id="r", grace=Grace())


def test_an_id_that_was_taken_since_is_not_taken_again(world: World, tmp_path: Path) -> None:
    upload = begin(world)
    world.workspace.bucket.put_once(upload.key, world.clip, "video/mp4")
    world.video("new")
    with pytest.raises(KeyReused, match="came to be since"):
        complete(world.workspace, upload.id, scratch=tmp_path, run_id="r", grace=Grace())


def test_an_upload_over_a_known_video_is_not_begun(world: World) -> None:
    world.video("new")
    with pytest.raises(InputRefused, match="in the catalogue already"):
        begin(world)
