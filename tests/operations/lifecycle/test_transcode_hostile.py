"""Hostile files cannot reach the network or other files, stay within limits, and get a reason."""

import os
import random
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.model import MediaLimits, Refusal, Transcode
from reelkeeper.rules.lifecycle.transcode import Acceptance
from tests.clips import MakeClip, tool
from tests.effort import cpu_seconds
from tests.marks import marked
from tests.shrinking import shrink

LENIENT = Acceptance(min_vmaf_mean=1, min_vmaf_p5=1, min_chroma_db=0, max_size_percent=99)


class Listener:
    """A loopback server that serves nothing and counts who comes."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}/v.mp4"
        self.hits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.hits += 1
            connection.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    item = Listener()
    yield item
    item.server.close()


def refused(source: Path, scratch: Path, within_seconds: float = 5) -> Refusal:
    """Expect a refusal for good that costs little of the processor."""
    before = cpu_seconds()
    outcome = shrink(source, scratch)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.permanent
    assert outcome.reason
    assert cpu_seconds() - before < within_seconds
    return outcome


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
PRETENDERS = {
    "HLS": HLS,
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "concat list": "file '{target}'\n",
    "DASH": DASH,
    "SMIL": '<smil><body><video src="{target}"/></body></smil>',
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=control:{target}\n",
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\n{target}\n",
}


@pytest.mark.parametrize("headed", [False, True], ids=["as it is", "with the head of an MP4"])
@pytest.mark.parametrize("kind", PRETENDERS)
def test_a_script_posing_as_a_video_reads_nothing_else(
    tiny_clip: Path, tmp_path: Path, listener: Listener, kind: str, headed: bool
) -> None:
    sibling = tmp_path / "sibling.mp4"
    sibling.write_bytes(tiny_clip.read_bytes())
    head = (20).to_bytes(4, "big") + b"ftypisom\x00\x00\x02\x00isom" if headed else b""
    for target in (listener.url, "sibling.mp4", str(sibling), f"file:{sibling}", f"concat:{sibling}|{listener.url}"):
        script = tmp_path / "script.mp4"
        script.write_bytes(head + PRETENDERS[kind].format(target=target).encode())
        assert refused(script, tmp_path).rule == "not_a_video"
    assert listener.hits == 0


def test_a_movie_that_keeps_its_samples_in_another_file_gets_none_of_them(
    tiny_clip: Path, tmp_path: Path, listener: Listener
) -> None:
    """An external data reference: `url ` with its self-contained flag cleared and a location in place of nothing."""
    data = tiny_clip.read_bytes()
    own = (12).to_bytes(4, "big") + b"url \x00\x00\x00\x01"
    assert data.count(own) == 2
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(data.replace(own, (12).to_bytes(4, "big") + b"url \x00\x00\x00\x00"))
    shrink(outside, tmp_path)
    assert listener.hits == 0


def test_hostile_names_are_only_names(tiny_clip: Path, tmp_path: Path, listener: Listener) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = (
        "a:b.mp4",
        "-i.mp4",
        "http:x.mp4",
        "new\nline.mp4",
        'it\'s "q".mp4',
        "%d.mp4",
        "a|b;c$(id).mp4",
        "\udcff.mp4",
    )
    for name in names:
        source = folder / name
        source.write_bytes(tiny_clip.read_bytes())
        assert isinstance(shrink(source, tmp_path), Transcode), name
    assert listener.hits == 0
    assert len(list(folder.iterdir())) == len(names)


@pytest.mark.parametrize("kind", ["nothing", "noise", "text", "moov missing", "moov only", "head only", "truncated"])
def test_a_broken_file_is_refused_for_good(make_clip: MakeClip, tmp_path: Path, kind: str) -> None:
    whole = make_clip("-movflags", "+faststart", seconds=2).read_bytes()
    at = whole.index(b"mdat") - 4
    content = {
        "nothing": b"",
        "noise": random.Random(7).randbytes(50_000),
        "text": b"hello, I am a video\n" * 100,
        "moov missing": whole[:32] + whole[at:],
        "moov only": whole[:at],
        "head only": whole[:100],
        "truncated": whole[: len(whole) * 2 // 3],
    }[kind]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    assert refused(broken, tmp_path).rule in ("not_a_video", "not_verified")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]


def test_a_path_that_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.mp4", tmp_path / "link.mp4"
    os.mkfifo(pipe)
    link.symlink_to("/etc/passwd")
    assert refused(pipe, tmp_path).reason == refused(tmp_path, tmp_path).reason == snapshot("not a regular file")
    assert marked(refused(link, tmp_path).reason) == snapshot(
        "its first bytes 72 6f 6f 74 3a 78 3a 30 are not those of MP4, WebM or MPEG-PS"
    )


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    sound = tool("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", str(tmp_path / "sound.mp4"))
    assert marked(refused(sound, tmp_path).reason) == snapshot("it has no video stream, only sound")


@pytest.mark.long
def test_a_picture_bomb_uses_neither_time_nor_memory(make_clip: MakeClip, tmp_path: Path) -> None:
    bomb = make_clip(draw="color", size="8192x8192", seconds=0.1, rate="10", audio="", codec="mjpeg", pixels="yuvj420p")
    script = f"""
        import resource
        from pathlib import Path
        from tests.shrinking import shrink
        from reelkeeper.adapters.ffmpeg import tools
        tools()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        refusal = shrink(Path({str(bomb)!r}), Path({str(tmp_path)!r}))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(refusal.rule, after.ru_maxrss // 1024, after.ru_utime - before.ru_utime)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    rule, peak_mib, cpu_seconds = done.stdout.split()
    assert rule == "not_a_video"
    assert int(peak_mib) < 200
    assert float(cpu_seconds) < 1


@pytest.mark.long
def test_an_endless_stream_is_refused_before_it_is_decoded(make_clip: MakeClip, tmp_path: Path) -> None:
    hour = make_clip(draw="color", size="16x16", seconds=3600, rate="12", audio="", codec="mpeg4 -q:v 31")
    assert "3600" in refused(hour, tmp_path).reason
    frames = make_clip(draw="color", size="16x16", seconds=500, rate="100", audio="", codec="mpeg4 -q:v 31")
    assert "50000" in refused(frames, tmp_path).reason


def test_a_file_beyond_the_size_limit_is_not_read(tiny_clip: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(tiny_clip.read_bytes())
    os.truncate(large, MediaLimits().max_size_bytes + 1)
    assert "500000001" in refused(large, tmp_path, within_seconds=1).reason


def test_a_train_of_boxes_does_not_keep_us_busy(tiny_clip: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.mp4"
    boxes.write_bytes(tiny_clip.read_bytes() + ((8).to_bytes(4, "big") + b"free") * 200_000)
    before = cpu_seconds()
    shrink(boxes, tmp_path)
    assert cpu_seconds() - before < 5


@pytest.mark.long
def test_a_damaged_index_is_either_read_right_or_refused(tiny_clip: Path, tmp_path: Path) -> None:
    """Mutations of the boxes that say where frames are: nothing hangs, crashes us or gives a half result."""
    whole = tiny_clip.read_bytes()
    start = whole.index(b"moov")
    end = start + int.from_bytes(whole[start - 4 : start], "big")
    chance = random.Random(20261124)
    for _ in range(30):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(start, min(end, len(data)))] = chance.choice(
                (0, 1, 0x7F, 0xFF, chance.randrange(256))
            )
        mutant = tmp_path / "mutant.mp4"
        mutant.write_bytes(data)
        outcome = shrink(mutant, tmp_path, acceptance=LENIENT)
        if isinstance(outcome, Transcode):
            assert outcome.media.frames == outcome.quality.frames
            Path(outcome.path).unlink()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20  # KiB
