"""Results in a real Chromium: playback starts before the download ends, and reaches the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from reelkeeper.adapters import ffmpeg
from tests.clips import NATURAL

pytestmark = pytest.mark.long("encodes, and a browser that plays them in real time")
PAGE = b"<!doctype html><title>x</title><video src='/clip' muted autoplay></video>"
SHOWN = "document.querySelector('video').readyState >= 2"  # HAVE_CURRENT_DATA: a frame is there
ENDED = "document.querySelector('video').ended || document.querySelector('video').error"
SEEN = """() => {
    const video = document.querySelector('video')
    return {error: video.error && video.error.message, width: video.videoWidth, seconds: video.duration,
            frames: video.getVideoPlaybackQuality().totalVideoFrames}
}"""


@contextmanager
def served(clip: Path, content_type: str, at_first: float, rest: threading.Event) -> Iterator[str]:
    """Serve a page with the clip, of which a part comes at first and the rest once `rest` is set."""
    data = clip.read_bytes()
    first_bytes = int(len(data) * at_first)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = (PAGE, "text/html") if self.path == "/" else (data, content_type)
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if body is data and start < first_bytes:
                self.wfile.write(body[start:first_bytes])
                self.wfile.flush()
                start = first_bytes
            if body is data:
                rest.wait(60)
            self.wfile.write(body[start:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        rest.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("codec", "container", "preset"),
    [("h264", "mp4", 5), ("av1", "mp4", 10), ("vp9", "mp4", 5), ("av1", "webm", 10), ("vp9", "webm", 5)],
)
def test_a_result_plays_from_its_first_bytes_to_its_end(
    chromium: Browser, natural_clips: dict[str, Path], tmp_path: Path, codec: str, container: str, preset: int
) -> None:
    source = natural_clips[min(NATURAL)]
    media, target = ffmpeg.inspect(source), tmp_path / f"out.{container}"
    assert ffmpeg.encode(source, target, media, ffmpeg.Encoding(codec, preset, 20, container)).complete
    rest, context = threading.Event(), chromium.new_context()
    try:
        with served(target, f"video/{container}", 0.6, rest) as url:
            tab = context.new_page()
            tab.goto(url, wait_until="commit")
            tab.wait_for_function(SHOWN, timeout=20_000)  # while the rest is still to come
            assert not rest.is_set()
            rest.set()
            tab.wait_for_function(ENDED, timeout=20_000)
            seen = tab.evaluate(SEEN)
    finally:
        context.close()
    assert seen["error"] is None
    assert seen["width"] == media.width
    assert seen["seconds"] == pytest.approx(media.duration_seconds, abs=0.1)
    assert seen["frames"] > 0  # how many a machine without a screen, and busy, draws is its own affair
