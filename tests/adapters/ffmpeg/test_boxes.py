"""Metadata that ffmpeg does not know is carried into a result bit for bit, or nothing is encoded."""

import json
import random
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.boxes import C2PA, MOST_CARRIED_BYTES, carry, metadata, walk
from reelkeeper.model import Quality, Refusal, Transcode
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, accept, skip
from tests.clips import MakeClip, natural, tool
from tests.shrinking import shrink

EXIFTOOL = "/usr/bin/exiftool"  # of Debian's libimage-exiftool-perl
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
OWN = bytes(range(16))  # a vendor's


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return (8 + len(content) if length is None else length).to_bytes(4, "big") + kind + content


def with_label(clip: Path, target: Path) -> Path:
    """Copy a clip, and label it as made by AI, as exiftool writes it."""
    target.write_bytes(clip.read_bytes())
    argument = f"-XMP-iptcExt:DigitalSourceType={AI}"
    subprocess.run([EXIFTOOL, "-q", "-overwrite_original", argument, str(target)], check=True)
    return target


def label(clip: Path) -> Any:  # noqa: ANN401  what JSON holds
    asked = [EXIFTOOL, "-j", "-n", "-XMP-iptcExt:DigitalSourceType", str(clip)]
    told: list[Mapping[str, Any]] = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    return told[0].get("DigitalSourceType")


def within_moov(clip: Path, extra: bytes, target: Path, of_tracks: bytes = b"") -> Path:
    """Add boxes to `moov`, in place of its `udta`, and to its tracks. It is behind the media data: nothing moves."""
    whole = clip.read_bytes()
    with clip.open("rb") as file:
        moov = next(found for found in walk(file, 0, len(whole)) if found.kind == b"moov")
        kept = [
            box(it.kind, whole[it.content : it.end] + (of_tracks if it.kind == b"trak" else b""))
            for it in walk(file, moov.content, moov.end)
            if it.kind != b"udta"
        ]
    assert moov.end == len(whole)
    target.write_bytes(whole[: moov.at] + box(b"moov", b"".join(kept) + extra))
    return target


def test_the_label_of_ai_survives_a_swap_and_so_does_a_vendors_box(tiny_clip: Path, tmp_path: Path) -> None:
    source = with_label(tiny_clip, tmp_path / "labelled.mp4")
    vendors = box(b"uuid", OWN + b"\x00 a signature \xff")
    source.write_bytes(source.read_bytes() + vendors)
    assert label(source) == AI
    media = ffmpeg.inspect(source)
    assert (len(media.carried_boxes), media.lost_boxes) == (2, ())
    (tmp_path / "work").mkdir()
    done = shrink(source, tmp_path / "work")
    assert isinstance(done, Transcode), done
    result = Path(done.path)
    assert label(result) == AI
    assert result.read_bytes().endswith(vendors)
    made = ffmpeg.inspect(result)
    assert (made.carried_boxes, made.index_first, made.lost_boxes) == (media.carried_boxes, True, ())
    assert ffmpeg.decode(result).frames == media.frames
    assert result.stat().st_size == done.size_bytes == made.size_bytes


def test_a_result_that_cannot_hold_a_box_is_never_begun(tiny_clip: Path, tmp_path: Path) -> None:
    media = ffmpeg.inspect(with_label(tiny_clip, tmp_path / "labelled.mp4"))
    in_webm = skip(media, Recipe(codec="av1", container="webm"))
    assert in_webm is not None
    assert in_webm.rule == "metadata_boxes"
    assert "be7acfcb-97a9-42e8-9c71-999491e3afac" in in_webm.reason
    assert skip(media, Recipe()) is None


def test_a_result_without_its_sources_boxes_is_refused(tiny_clip: Path) -> None:
    media = ffmpeg.inspect(tiny_clip)
    quality = Quality("vmaf", 99, 99, 99, 60, media.frames, 1)
    labelled = replace(media, carried_boxes=("uuid a",))
    rules = [accept(source, media, quality, Recipe(), Acceptance()) for source in (labelled, media)]
    assert ["uuid a" in str(found) for found in rules] == [True, False]


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (box(b"uuid", XMP + b"<x/>"), "moov/uuid be7acfcb-97a9-42e8-9c71-999491e3afac"),
        (box(b"udta", box(b"XMP_", b"<x/>")), "moov/udta/XMP_"),
        (box(b"udta", box(b"Xtra", b"\0" * 9)), "moov/udta/Xtra"),
        (box(b"meta", b"\0" * 4 + box(b"hdlr", b"\0" * 8 + b"ID32" + b"\0" * 13)), "moov/meta of ID32"),
        (box(b"meta", b"\0" * 4), "moov/meta of no handler"),
        (box(b"udta", box(b"uuid", OWN)), "moov/udta/uuid 00010203-0405-0607-0809-0a0b0c0d0e0f"),
    ],
)
def test_metadata_within_the_index_keeps_a_video_as_it_is(
    make_clip: MakeClip, tmp_path: Path, extra: bytes, named: str
) -> None:
    plain = tool("-i", str(make_clip()), "-c", "copy", "-fflags", "+bitexact", str(tmp_path / "plain.mp4"))
    media = ffmpeg.inspect(within_moov(plain, extra, tmp_path / "in.mp4"))
    assert media.lost_boxes == (named,)
    refused = skip(media, Recipe())
    assert isinstance(refused, Refusal)
    assert (refused.rule, refused.reason.startswith(f"{named} ")) == ("metadata_boxes", True)


@pytest.mark.parametrize(
    ("extra", "lost"),
    [
        (box(b"uuid", XMP + b"<x/>"), ("moov/trak/uuid be7acfcb-97a9-42e8-9c71-999491e3afac",)),
        (box(b"meta", b"\0" * 4), ("moov/trak/meta",)),
        (box(b"udta", box(b"XMP_", b"<x/>")), ("moov/trak/udta/XMP_",)),
        (box(b"udta", box(b"name", b"voice")), ()),
        (box(b"udta", box(b"name", b"voice")) * 2, ("moov/trak/udta",)),
    ],
)
def test_metadata_within_a_track_keeps_a_video_as_it_is(
    make_clip: MakeClip, tmp_path: Path, extra: bytes, lost: tuple[str, ...]
) -> None:
    plain = tool("-i", str(make_clip(audio="")), "-c", "copy", "-fflags", "+bitexact", str(tmp_path / "plain.mp4"))
    media = ffmpeg.inspect(within_moov(plain, b"", tmp_path / "in.mp4", extra))
    assert tuple(name.partition(",")[0] for name in media.lost_boxes) == lost
    refused = skip(media, Recipe())
    assert (refused and refused.rule) == ("metadata_boxes" if lost else None)


@pytest.mark.parametrize(
    ("appended", "named"),
    [
        (box(b"meta", b"\0" * 4), "meta"),
        (box(b"udta", b""), "udta"),
        (box(b"uuid", b"short"), "uuid"),
        (box(b"uuid", OWN, 1_000), "uuid 00010203-0405-0607-0809-0a0b0c0d0e0f "),
        (box(b"uuid", OWN, 7), "uuid 00010203-0405-0607-0809-0a0b0c0d0e0f "),
    ],
)
def test_other_boxes_beside_the_index_keep_a_video_as_it_is(
    tiny_clip: Path, tmp_path: Path, appended: bytes, named: str
) -> None:
    clip = tmp_path / "in.mp4"
    clip.write_bytes(tiny_clip.read_bytes() + appended)
    assert metadata(clip, ()).lost[-1].startswith(named)


def test_content_credentials_are_seen(tiny_clip: Path, tmp_path: Path) -> None:
    signed = tmp_path / "signed.mp4"
    signed.write_bytes(tiny_clip.read_bytes() + box(b"uuid", C2PA.bytes))
    assert ffmpeg.inspect(signed).content_credentials
    assert not ffmpeg.inspect(tiny_clip).content_credentials


def test_a_box_of_64_bits_or_up_to_the_end_is_carried_as_it_is(tiny_clip: Path, tmp_path: Path) -> None:
    large = b"\0\0\0\1uuid" + (24 + 16).to_bytes(8, "big") + OWN + b"\xff" * 8
    last = box(b"uuid", OWN + b"to the end", 0)
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write_bytes(tiny_clip.read_bytes() + large + last)
    target.write_bytes(b"")
    found = ffmpeg.inspect(source)
    assert len(found.carried_boxes) == 2
    carry(source, target)
    assert target.read_bytes() == large + last
    source.write_bytes(tiny_clip.read_bytes() + box(b"uuid", OWN + b"\0" * MOST_CARRIED_BYTES))
    assert (len(metadata(source, ()).carried), len(metadata(source, ()).lost)) == (0, 1)


def test_usual_files_have_no_metadata_that_would_be_lost(make_clip: MakeClip, tmp_path: Path) -> None:
    tagged = ["-metadata", "title=a", "-metadata", "comment=b", "-metadata", "location=+1+1/", "-c", "copy"]
    plain = make_clip()
    for clip in (
        natural("bunny"),
        plain,
        tool("-i", str(plain), *tagged, str(tmp_path / "itunes.mp4")),
        tool(
            "-i",
            str(plain),
            *tagged,
            "-movflags",
            "use_metadata_tags",
            "-metadata",
            "prompt=x",
            str(tmp_path / "k.mp4"),
        ),
        tool("-i", str(plain), *tagged, str(tmp_path / "quicktime.mov")),
    ):
        found = ffmpeg.inspect(clip)
        assert (found.lost_boxes, found.carried_boxes) == ((), ()), clip


def test_a_hostile_file_ends_the_walk(tiny_clip: Path, tmp_path: Path) -> None:
    whole, draw = tiny_clip.read_bytes(), random.Random(7)
    for number in range(300):
        broken = bytearray(whole)
        for _ in range(4):
            at = draw.randrange(len(broken) - 8)
            broken[at : at + 4] = draw.choice((b"\0\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", draw.randbytes(4)))
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(bytes(broken))
        assert len(metadata(path, ()).lost) <= 20
    many = BytesIO(box(b"free", b"") * 20_000)
    assert [found.fault for found in walk(many, 0, 160_000) if found.fault]
