"""Each option for opening untrusted files works by itself, without the isolation by the kernel."""

import socket
import subprocess
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.ffmpeg import tools
from reelkeeper.adapters.ffmpeg.intake import Clip, admit
from reelkeeper.errors import NotAVideo
from reelkeeper.model import MediaLimits
from tests.clips import MakeClip
from tests.marks import marked


def command(place: str, container: str, *only: str) -> list[str]:
    """List the streams of `place` with ffprobe, with only the given options."""
    options = Clip(Path(place), container, 1).options(MediaLimits())
    chosen = [part for name in only if name in options for part in (f"-{name}", str(options[name]))]
    return [tools().ffprobe, "-v", "error", *chosen, "-show_entries", "stream=codec_name", "-of", "csv=p=0", place]


def read(place: str, container: str, *only: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(place, container, *only), capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("option", "said"), [("f", "moov"), ("format_whitelist", "whitelist")])
def test_a_script_with_a_video_extension_is_refused(tiny_clip: Path, tmp_path: Path, option: str, said: str) -> None:
    (tmp_path / "sibling.mp4").write_bytes(tiny_clip.read_bytes())
    script = tmp_path / "script.mov"
    script.write_text("ffconcat version 1.0\nfile sibling.mp4\n")
    assert read(f"file:{script}", "mov").stdout.split() == ["h264", "aac"]
    refused = read(f"file:{script}", "mov", option)
    assert refused.stdout == ""
    assert said in refused.stderr
    with pytest.raises(NotAVideo) as not_a_video:
        admit(script, tmp_path, MediaLimits())
    assert marked(not_a_video.value) == snapshot(
        "its first bytes 66 66 63 6f 6e 63 61 74 are not those of MP4, WebM or MPEG-PS"
    )


@pytest.mark.parametrize(("option", "called"), [("codec_whitelist", True), ("protocol_whitelist", False)])
def test_no_server_is_asked_for_a_file(option: str, called: bool) -> None:
    """With another option alone one is: what is refused otherwise is really the protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v.mp4"
        with subprocess.Popen(command(url, "mov", option), stderr=subprocess.PIPE, text=True) as process:
            try:
                server.accept()[0].close()
                came = True
            except TimeoutError:
                came = False
            said = process.communicate(timeout=60)[1]
    assert (came, "not on whitelist" in said) == (called, not called)


def test_a_rare_decoder_is_not_opened(make_clip: MakeClip) -> None:
    clip = make_clip(codec="ffv1", suffix="mkv", audio="")
    assert read(f"file:{clip}", "webm").stdout.split() == ["ffv1"]
    refused = read(f"file:{clip}", "webm", "codec_whitelist")
    assert refused.returncode
    assert "ffv1" in refused.stderr
