"""The local generator makes a real, moving video of the requested size and length."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.providers import LocalGenerator
from reelkeeper.adapters.providers.contract import NO_IMAGES, Order
from reelkeeper.errors import GenerationCancelled, GenerationRefused
from tests.marks import marked

REQUEST: dict[str, Any] = {"prompt": "a cat", "width": 160, "height": 96, "duration_seconds": 1.5, "fps": 12, "seed": 3}


class Listener:
    def __init__(self, stop: Exception | None = None) -> None:
        self.fractions: list[float] = []
        self.stop = stop

    def announce(self) -> str:
        raise AssertionError("nothing is sent anywhere")

    def sent(self, provider_job_id: str) -> None:
        raise AssertionError(provider_job_id)

    def over(self) -> None: ...

    def paid(self, cost_microusd: int | None) -> None:
        raise AssertionError(cost_microusd)

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if self.stop:
            raise self.stop


def make(folder: Path, name: str = "made.mp4", listener: Listener | None = None, **changes: object) -> Path:
    order = Order("j", "local", {**REQUEST, **changes})
    return LocalGenerator(folder / "images").make(order, folder / name, listener or Listener()).path


def picture(folder: Path, kind: str) -> str:
    """Draw a picture, and give the digest that it is found by."""
    (folder / "images").mkdir(exist_ok=True)
    name = ("b" if kind == "png" else "c") * 64
    codec = {"png": "png", "jpg": "mjpeg"}[kind]
    drawn = ["-f", "lavfi", "-i", "testsrc=s=200x100", "-frames:v", "1", "-c:v", codec, "-f", "image2pipe", "-"]
    shown = subprocess.run([ffmpeg.tools().ffmpeg, "-v", "error", *drawn], capture_output=True, check=True).stdout
    (folder / "images" / name).write_bytes(shown)
    return name


def test_a_video_has_the_size_and_length_that_was_asked_for_and_decodes_to_its_end(tmp_path: Path) -> None:
    listener = Listener()
    made = make(tmp_path, listener=listener)
    media = ffmpeg.inspect(made)
    assert (media.codec, media.width, media.height, media.frames) == ("h264", 160, 96, 18)
    decoded = ffmpeg.decode(made, media)
    assert decoded.frames == 18
    assert decoded.duration_seconds == pytest.approx(1.5)
    assert listener.fractions
    assert all(0 <= fraction <= 1 for fraction in listener.fractions)


def test_the_same_is_the_same_to_the_byte_and_another_seed_or_prompt_is_not(tmp_path: Path) -> None:
    made = [make(tmp_path, "a.mp4"), make(tmp_path, "b.mp4")]
    made += [make(tmp_path, "c.mp4", seed=4), make(tmp_path, "d.mp4", prompt="a dog")]
    videos = [video.read_bytes() for video in made]
    assert videos[0] == videos[1]
    assert len(set(videos)) == 3


def test_the_picture_moves(tmp_path: Path) -> None:
    made = make(tmp_path)
    frames = subprocess.run(
        [ffmpeg.tools().ffmpeg, "-v", "error", "-i", made, "-f", "framemd5", "-"], capture_output=True, check=True
    ).stdout.decode()
    digests = [line.rpartition(",")[2] for line in frames.splitlines() if not line.startswith("#")]
    assert len(set(digests)) == 18


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_camera_moves_over_the_input_image(tmp_path: Path, kind: str) -> None:
    made = make(tmp_path, image_sha256=picture(tmp_path, kind))
    assert ffmpeg.inspect(made).frames == 18
    assert made.read_bytes() != make(tmp_path, "other.mp4").read_bytes()


def test_an_image_that_the_api_keeps_is_fetched(tmp_path: Path) -> None:
    name, asked = picture(tmp_path, "png"), list[str]()
    (tmp_path / "images" / name).rename(tmp_path / "kept")

    def fetch(digest: str, target: Path) -> bool:
        asked.append(digest)
        shutil.copy(tmp_path / "kept", target)
        return True

    order = Order("j", "local", {**REQUEST, "image_sha256": name})
    LocalGenerator(tmp_path / "images", NO_IMAGES._replace(fetch=fetch)).make(order, tmp_path / "made.mp4", Listener())
    assert asked == [name]
    assert (tmp_path / "made.mp4").read_bytes() != make(tmp_path, "other.mp4").read_bytes()


@pytest.mark.parametrize("content", [b"", b"#EXTM3U\nfile:///etc/passwd", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    name = picture(tmp_path, "png")
    (tmp_path / "images" / name).write_bytes(content)
    with pytest.raises(GenerationRefused, match="image"):
        make(tmp_path, image_sha256=name)


@pytest.mark.parametrize("name", ["d" * 64, "../../etc/passwd", "/etc/passwd", "."])
def test_a_missing_image_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GenerationRefused) as refused:
        make(tmp_path, image_sha256=name)
    assert marked(refused.value, NAME=name) == snapshot("no input image 'NAME'")


def test_a_cancelled_generation_stops_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(GenerationCancelled):
        make(tmp_path, listener=Listener(GenerationCancelled("not wanted")), width=640, duration_seconds=20.0)
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []
