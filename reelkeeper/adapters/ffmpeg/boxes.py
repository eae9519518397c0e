"""Find the metadata boxes of an MP4 that ffmpeg does not understand, and carry them into a result.

The label that a clip was made by AI is often XMP in a `uuid` box, which ffmpeg drops without a word. A `uuid` box
beside the media data is self-contained, so it is appended to the result bit for bit, where it moves no offset. Any
other box of metadata that would be lost is named, so that the clip is not encoded. Files are hostile: each box lies
within its parent, and their number, depth and size are bounded (ISO/IEC 14496-12, 4.2).
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from uuid import UUID

C2PA: Final = UUID("d8fec3d6-1b0e-483c-9297-5828877ec481")  # C2PA specification 2.1, A.5: BMFF boxes
MOST_CARRIED_BYTES: Final = 16_000_000
_METADATA: Final = (b"uuid", b"udta", b"meta")
_MAX_BOXES: Final = 10_000  # in one parent
_MAX_NAMED: Final = 20  # boxes that are named or carried
_MAX_NAME: Final = 60  # bytes of a name that are shown
# Entries of `udta` and of iTunes' list that become tags, or concern nothing that is kept.
_NAMES: Final = """
meta chpl ilst free skip ---- covr aART cprt desc ldes cpil disk trkn gnre rtng stik hdvd pgap pcst keyw catg purd sonm
soar soaa soal soco sosn tven tves tvnn tvsh tvsn loci ©nam ©ART ©alb ©day ©cmt ©gen ©too ©wrt ©cpy ©enc ©swr ©fmt ©inf
©req ©xyz ©mak ©mod ©dir ©prd ©des ©grp ©lyr
"""
_MAX_TRACKS: Final = 20  # whose boxes are read: a file of more streams than `MediaLimits` allows is refused
_OF_TRACKS: Final = (b"name", b"kind", b"free", b"skip")  # in their `udta`: their names are not kept, their kinds are
_UNDERSTOOD: Final = frozenset(name.encode("latin-1") for name in _NAMES.split())


class Box(NamedTuple):
    """A box of a file: its content is from `content` to `end`. `fault` says why its size is impossible."""

    kind: bytes
    at: int
    content: int
    end: int
    fault: str = ""


class Metadata(NamedTuple):
    """The metadata boxes of an MP4 that are no tags.

    `carried` are copied into a result, each named by its type and the SHA-256 of the whole box, in order; `lost` cannot
    be, named by their path.
    """

    carried: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    has_c2pa: bool = False


def walk(file: BinaryIO, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes from `at` to `end`; the last one may have a `fault`."""
    for _ in range(_MAX_BOXES):
        if end - at < 8:  # noqa: PLR2004  a header is 8 bytes; QuickTime ends a list with 4 zeros
            return
        file.seek(at)
        header = file.read(8)
        length, kind, content = int.from_bytes(header[:4], "big"), header[4:], at + 8
        if length == 1:  # a 64-bit size follows
            length, content = int.from_bytes(file.read(8), "big"), at + 16
        if length == 0:  # up to the end
            length = end - at
        if length < content - at or length > end - at:
            yield Box(kind, at, min(content, end), end, "of an impossible size")
            return
        yield Box(kind, at, content, at + length)
        at += length
    if at < end:
        yield Box(b"", at, at, end, f"more than {_MAX_BOXES:,} boxes")


def metadata(path: Path, tags: Collection[str]) -> Metadata:
    """Find the metadata boxes of an MP4. `tags` are the names, in lower case, that ffmpeg found."""
    carried, lost, has_c2pa, left_bytes, seen = list[str](), list[str](), False, MOST_CARRIED_BYTES, set[bytes]()
    with path.open("rb") as file:
        for box in walk(file, 0, path.stat().st_size):
            named = _uuid(file, box) if box.kind == b"uuid" else None
            if named == C2PA:
                has_c2pa = True
            elif named and not box.fault and len(carried) < _MAX_NAMED and box.end - box.at <= left_bytes:
                left_bytes -= box.end - box.at
                carried.append(f"uuid {named} {_sha256(file, box)}")
            elif box.kind in _METADATA or not box.kind:
                lost.append(" ".join(str(part) for part in (_shown(box.kind), named or "", box.fault) if part))
            elif box.kind == b"moov":
                lost += ["a second moov"] if b"moov" in seen else _lost(file, box, "moov", tags)
            seen.add(box.kind)
    return Metadata(tuple(carried), tuple(lost[:_MAX_NAMED]), has_c2pa)


def carry(source: Path, target: Path) -> None:
    """Append the boxes of MP4 `source` that are carried to the MP4 `target`. It has no others that would be lost."""
    with source.open("rb") as file, target.open("ab") as into:
        for box in walk(file, 0, source.stat().st_size):
            if box.kind == b"uuid" and not box.fault:
                file.seek(box.at)
                into.write(file.read(box.end - box.at))


def _uuid(file: BinaryIO, box: Box) -> UUID | None:
    file.seek(box.content)
    found = file.read(min(16, box.end - box.content))
    return UUID(bytes=found) if len(found) == 16 else None  # noqa: PLR2004  bytes of a UUID


def _sha256(file: BinaryIO, box: Box) -> str:
    file.seek(box.at)
    return hashlib.sha256(file.read(box.end - box.at)).hexdigest()


def _lost(file: BinaryIO, parent: Box, path: str, tags: Collection[str]) -> Iterator[str]:
    """Name the metadata within `moov`, a track of it, or the `udta` of either, that ffmpeg drops."""
    is_udta, of_track, seen, tracks = parent.kind == b"udta", path.startswith("moov/trak"), set[bytes](), 0
    for box in walk(file, parent.content, parent.end):
        name = f"{path}/{_shown(box.kind)}"
        if box.fault:
            yield f"{name} {box.fault}"
        elif box.kind in _METADATA and box.kind in seen:  # reading each would take hours in a hostile file
            yield f"{name}, a second one"
        elif box.kind == b"uuid":
            yield f"{name} {_uuid(file, box)}"
        elif box.kind == b"meta" and not of_track:
            yield from _lost_of_meta(file, box, name, tags)
        elif box.kind == b"trak" and path == "moov" and tracks < _MAX_TRACKS:
            tracks += 1
            # guard transcode.lost_of_tracks: provenance that stands in a track of the index is lost
            yield from _lost(file, box, name, tags)
        elif box.kind == b"udta" and not is_udta:
            yield from _lost(file, box, name, tags)
        elif box.kind == b"meta" or (is_udta and box.kind not in (_OF_TRACKS if of_track else _UNDERSTOOD)):
            yield name
        seen.add(box.kind)


def _lost_of_meta(file: BinaryIO, meta: Box, path: str, tags: Collection[str]) -> Iterator[str]:
    file.seek(meta.content)
    is_full = file.read(8)[4:] != b"hdlr"  # QuickTime's has no version and flags
    found = list(walk(file, meta.content + 4 * is_full, meta.end))
    boxes = {box.kind: box for box in found}
    handler = b""
    if b"hdlr" in boxes:
        file.seek(boxes[b"hdlr"].content + 8)
        handler = file.read(4)
    if len(boxes) < len(found):
        yield f"{path} with a box twice"
    elif handler == b"mdir":
        items = walk(file, boxes[b"ilst"].content, boxes[b"ilst"].end) if b"ilst" in boxes else ()
        yield from (f"{path}/ilst/{_shown(box.kind)}" for box in items if box.fault or box.kind not in _UNDERSTOOD)
    elif handler == b"mdta":
        keys = boxes.get(b"keys")
        names = [_key(file, box) for box in walk(file, keys.content + 8, keys.end)] if keys else []
        yield from (f"{path}/keys/{name}" for name in names if name.lower() not in tags)
    else:
        yield f"{path} of {_shown(handler) or 'no handler'}"
    yield from (
        f"{path}/{_shown(kind)}"
        for kind, box in boxes.items()
        if box.fault or kind not in (b"hdlr", b"ilst", b"keys", b"free", b"skip")
    )


def _key(file: BinaryIO, box: Box) -> str:
    file.seek(box.content)
    return file.read(min(box.end - box.content, _MAX_NAME)).decode("utf-8", "replace")


def _shown(kind: bytes) -> str:
    return kind.decode("latin-1").strip()
