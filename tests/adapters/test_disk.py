"""A full disk is reported as such: which disk, where, how much is free, and never as a fault of the file."""

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper import disk
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.errors import DiskFull, NotAVideo
from reelkeeper.operations.lifecycle.transcode import Permit
from tests.disks import fill, small_disk
from tests.marks import marked
from tests.shrinking import shrink

MB = 1_000_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small disk", 64) as folder:
        yield folder


def test_a_full_disk_is_named_with_its_mount_its_figures_and_a_remedy(small: Path) -> None:
    disk.require(small / "not" / "made", "the disk of x", "Buy one")
    fill(small, 10 * MB)
    with pytest.raises(DiskFull) as told:
        disk.require(small / "not" / "made", "the disk of x", "Buy one")
    said = str(told.value)
    free = re.sub(r"[\d,]+ of 67", "FREE of 67", said)
    assert marked(free, FOLDER=small / "not" / "made", MOUNT=small) == snapshot(
        "the disk of x is full: FOLDER, on the tmpfs file system at MOUNT, has FREE of 67,108,864 bytes free; 32,000,000 are needed. Buy one; then run it again: nothing is lost, and what is done stays done"
    )


def test_the_kernels_word_is_turned_and_any_other_error_is_not(small: Path) -> None:
    fill(small)
    with pytest.raises(DiskFull, match="has 0 of"), disk.watched(small, "it", "Do"):
        (small / "more").write_bytes(b"x" * MB)
    with pytest.raises(FileNotFoundError), disk.watched(small, "it", "Do"):
        (small / "nothing").read_bytes()
    assert disk.is_full(OSError(errno.ENOSPC, "x"))
    assert not disk.is_full(OSError(errno.EACCES, "x"))


def test_a_disk_without_inodes_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    without = os.statvfs_result((*real[:5], 1000, 0, 0, *real[8:]))
    monkeypatch.setattr(os, "statvfs", lambda _: without)
    with pytest.raises(DiskFull) as refused:
        disk.require(tmp_path, "it", "Do")
    said = re.sub(r", on the .*? bytes free", ", on MOUNT has FREE of SIZE bytes free", str(refused.value))
    assert marked(said, FOLDER=tmp_path) == snapshot(
        "it is full: FOLDER, on MOUNT has FREE of SIZE bytes free, and no inode for a new file; 32,000,000 are needed. Do; then run it again: nothing is lost, and what is done stays done"
    )


def test_no_work_begins_on_a_full_scratch(small: Path) -> None:
    fill(small, 10 * MB)
    with pytest.raises(DiskFull, match="REELKEEPER_SCRATCH_DIR"), scratch_dir(small):
        pytest.fail("it began")


@pytest.mark.parametrize(
    "leave_bytes",
    [0, 4096, 100_000],
    ids=lambda left: f"{left} bytes left",
)
def test_a_disk_that_fills_during_an_encode_is_no_fault_of_the_video(
    small: Path, natural_clips: dict[str, Path], leave_bytes: int
) -> None:
    source = natural_clips["bikes"]
    media = ffmpeg.inspect(source)

    def fill_up() -> None:
        """Fill it when the encoder has opened its file: it looks ahead, so nothing is in there yet."""
        while not list(small.glob("*/out.mp4")):
            time.sleep(0.001)
        fill(small, leave_bytes)

    filling = threading.Thread(target=fill_up)
    filling.start()
    with pytest.raises(DiskFull, match=f"at {small}"):
        ffmpeg.encode(source, small / "out.mp4", media, ffmpeg.Encoding("av1", preset=8, crf=20))
    filling.join()
    assert not (small / "out.mp4").exists()


def test_a_search_on_a_disk_that_fills_ends_in_no_refusal(small: Path, natural_clips: dict[str, Path]) -> None:
    with pytest.raises(DiskFull):
        shrink(
            natural_clips["bikes"],
            small,
            permit=Permit(check=lambda: None if (small / "filler").exists() else void(small)),
        )


def void(small: Path) -> None:
    fill(small, 4096)


def test_a_tools_full_disk_error_counts_even_if_there_is_room_again(tmp_path: Path) -> None:
    ended = ffmpeg.runner.Finished(1, b"", "av_interleaved_write_frame(): No space left on device", 0, 0, tmp_path)
    with pytest.raises(DiskFull):
        ended.check("encode")
    with pytest.raises(NotAVideo):
        ffmpeg.runner.Finished(1, b"", "moov atom not found", 0, 0, tmp_path).check("encode")
