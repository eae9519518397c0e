"""The checks. Each returns a description of what it observed, or raises `Broken` with the deviation."""

import hashlib
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Final

import httpx

from reelkeeper.adapters.contract.scratch import Broken, Scratch
from reelkeeper.errors import KeyTaken, ObjectChanged, ObjectMissing, ReelkeeperError

ODD_NAMES: Final = ("a b", "ä", "日本", "🎬", "a+b", "100%", "%20", "a&b<c>", "'quotes\"", "q?x=1#y", "~!*();:@$,=[]{}")
_TYPE: Final = "text/plain"
_CLOCKS: Final = timedelta(minutes=5)  # S3 refuses requests whose date is 15 min off; operations/workspace.py allows 5
_BETWEEN_WRITES: Final = 2.1  # seconds: R2 accepts one write a second to one key, and reports times to the second
_EXPIRES: Final = 2  # seconds, of a URL that is used after it has expired
_AFTERWARDS: Final = 2  # seconds later
_WRITERS, _RACES = 4, 3
_STALE: Final = timedelta(minutes=20)  # S3: a request that was signed more than 15 min ago is refused


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _same(what: str, seen: object, expected: object) -> None:
    if seen == expected:
        return
    if isinstance(seen, list) and isinstance(expected, list):
        seen, expected = next(pair for pair in zip_longest(seen, expected) if pair[0] != pair[1])
        what += ", first difference"
    if isinstance(seen, set) and isinstance(expected, set):
        more, lost = sorted(seen - expected), sorted(expected - seen)
        raise Broken(f"{what}: {len(more)} unexpected {more[:1]}, {len(lost)} missing {lost[:1]}")
    raise Broken(f"{what}: {seen!r}, expected {expected!r}")


def _written_once(place: Scratch) -> str:
    key = place.key("once.mp4")
    place.bucket.put_bytes_once(key, b"first", _TYPE)
    for _ in range(3):
        try:
            place.bucket.put_bytes_once(key, b"another", _TYPE)
        except KeyTaken:
            continue
        raise Broken("If-None-Match: * is ignored: a second put replaced the object")
    _same("after three refused puts", place.bucket.read_bytes(key), b"first")
    return "a put with If-None-Match: * to an existing key is refused (412), three times of three"


def _written_once_at_once(place: Scratch) -> str:
    for number in range(_RACES):
        key = place.key(f"once-at-once-{number}.mp4")

        def put(data: bytes, key: str = key) -> None:
            place.bucket.put_bytes_once(key, data, _TYPE)

        _one_wins(place, key, put)
    return f"of {_WRITERS} simultaneous puts with If-None-Match: *, one stores its object, {_RACES} times of {_RACES}"


def _one_wins(place: Scratch, key: str, put: Callable[[bytes], object]) -> None:
    """Let several writers put at once under one condition: exactly one may succeed, and its bytes are stored."""

    def attempt(number: int) -> bool:
        try:
            put(f"writer {number}".encode())
        except (KeyTaken, ObjectChanged):
            return False
        return True

    with ThreadPoolExecutor(_WRITERS) as pool:
        done = [number for number, is_done in enumerate(pool.map(attempt, range(_WRITERS))) if is_done]
    _same("how many of several simultaneous puts under one condition were accepted", len(done), 1)
    _same("after them", place.bucket.read_bytes(key), f"writer {done[0]}".encode())


def _lost_reply(place: Scratch) -> str:
    key = place.key("lost-reply.mp4")
    first = place.bucket.put_bytes_once(key, b"first", _TYPE)
    again = place.bucket.put_bytes_once(key, b"first", _TYPE)
    _same("the same put again", (again.size_bytes, again.etag), (first.size_bytes, first.etag))
    return "the same conditional put again is refused, and the stored object is recognised as our own"


def _if_match(place: Scratch) -> str:
    key = place.key("if-match.mp4")
    etag = place.put(key, b"first")
    time.sleep(_BETWEEN_WRITES)
    try:
        place.put(key, b"wrong", IfMatch=f'"{_md5(b"something else")}"')
    except ObjectChanged:
        _same("after a refused put", place.bucket.read_bytes(key), b"first")
    else:
        raise Broken("If-Match is ignored: a put with another ETag replaced the object")
    time.sleep(_BETWEEN_WRITES)
    place.put(key, b"second", IfMatch=f'"{etag}"')
    _same("after a put with the right ETag", place.bucket.read_bytes(key), b"second")
    try:
        place.put(place.key("nothing.mp4"), b"x", IfMatch=f'"{etag}"')
    except (ObjectChanged, ObjectMissing):
        return "a put with If-Match replaces only the object with that ETag (412 otherwise), and creates none"
    raise Broken("If-Match is ignored if no object exists: one was created")


def _if_match_at_once(place: Scratch) -> str:
    key = place.key("at-once.mp4")
    etag = place.put(key, b"first")
    time.sleep(_BETWEEN_WRITES)
    _one_wins(place, key, lambda data: place.put(key, data, IfMatch=f'"{etag}"'))
    return f"of {_WRITERS} simultaneous puts with the same ETag, one replaces the object"


def _copy(place: Scratch) -> str:
    key, to, data = place.key("copied.mp4"), place.key("copy.mp4"), secrets.token_bytes(100_000)
    etag = place.put(key, data, CacheControl="no-cache", Metadata={"prompt-id": "p-1"})
    served = place.bucket.headers(key)
    place.bucket.copy(key, to, etag)
    head = place.bucket.head(to)
    _same("the ETag of a copy", head and head.etag, _md5(data))
    _same("the bytes of a copy", place.bucket.read_bytes(to, len(data)), data)
    _same("how a copy is served", place.bucket.headers(to), served)
    return "a copy within the bucket has the bytes, the ETag, the headers and the metadata of its source"


def _etag(place: Scratch) -> str:
    key, data = place.key("etag.mp4"), secrets.token_bytes(100_000)
    _same("the ETag of a put", place.put(key, data), _md5(data))
    head = place.bucket.head(key)
    _same("the ETag of a HEAD", head and head.etag, _md5(data))
    _same("the ETag of a listing", place.listed()[key].etag, _md5(data))
    return "the ETag of a single put is the MD5 of its bytes, in its answer, a HEAD and a listing"


def _read_conditions(place: Scratch) -> str:
    key = place.key("get.mp4")
    etag = place.put(key, b"first")
    try:
        place.bucket.read_bytes(place.key("nothing.mp4"))
    except ObjectMissing:
        pass
    else:
        raise Broken("a GET of a key without an object does not answer 404")
    _same("a HEAD of a key without an object", place.bucket.head(place.key("nothing.mp4")), None)
    _same("a GET with the right If-Match", place.read_if(key, etag), b"first")
    try:
        place.read_if(key, _md5(b"something else"))
    except ObjectChanged:
        return "a GET with If-Match returns only the object with that ETag (412 otherwise), or 404 if there is none"
    raise Broken("If-Match is ignored by a GET")


def _listing(place: Scratch) -> str:
    names = ["a", "a-b", "a.b", "a/b", "a0", "b/z", "Ü", "ä", "日本"]  # `-`, `.`, `/` and `0` follow one another
    keys = sorted((place.key(f"{name}/x.mp4") for name in names), key=str.encode)
    for key in keys:
        place.put(key, b"x")
    _same("the order of a listing", list(place.listed()), keys)
    for index in (0, 4, len(keys) - 1):
        _same(f"a listing after key {index}", place.keys_after(keys[index]), keys[index + 1 :])
    _same("pages of two keys", place.keys_after(keys[0], page_keys=2), keys[1:])
    return "listings are complete, in the byte order of the keys, and continue right after the key in StartAfter"


def _times(place: Scratch) -> str:
    key = place.key("times.mp4")
    place.put(key, b"x")
    head, listed = place.bucket.head(key), place.listed()[key]
    if head is None:
        raise Broken("an object that was put does not exist")
    heads, lists = (at.replace(microsecond=0) for at in (head.last_modified, listed.last_modified))
    _same("LastModified of a listing, to the second, against a HEAD's", lists, heads)
    if (away := abs(head.last_modified - datetime.now(UTC))) > _CLOCKS:
        raise Broken(f"LastModified of an object that was just put is {away} from this machine's clock")
    return f"LastModified of a listing and a HEAD agree to the second, {away.total_seconds():.0f} s from our clock"


def _clock(place: Scratch) -> str:
    if (away := abs(place.bucket.server_time() - datetime.now(UTC))) > _CLOCKS:
        raise Broken(f"the bucket's clock, in the Date header of its answers, is {away} from this machine's")
    return f"its answers have its time, {away.total_seconds():.0f} s from ours"


def _same_bytes_again(place: Scratch) -> str:
    key = place.key("again.mp4")
    etag, before = place.put(key, b"same"), place.bucket.head(key)
    time.sleep(_BETWEEN_WRITES)
    _same("the ETag of the same bytes put again", place.put(key, b"same"), etag)
    after, listed = place.bucket.head(key), place.listed()[key]
    if before is None or after is None or not after.last_modified > before.last_modified:
        raise Broken(f"the same bytes put again do not change LastModified: {before}, then {after}")
    if listed.last_modified <= before.last_modified:
        raise Broken(
            f"a listing still shows the old LastModified {listed.last_modified} after the same bytes were put again"
        )
    moved = (after.last_modified - before.last_modified).total_seconds()
    return f"the same bytes put again keep the ETag and change LastModified, by {moved:.0f} s here"


def _expired_delete(place: Scratch) -> str:
    key = place.key("expired.mp4")
    place.put(key, b"x")
    url = place.bucket.sign_deletes([key], _EXPIRES)[key]
    time.sleep(_EXPIRES + _AFTERWARDS)
    status = place.send(httpx.Request("DELETE", url)).status_code
    if status != httpx.codes.FORBIDDEN or place.bucket.head(key) is None:
        left = "stands" if place.bucket.head(key) else "is gone"
        raise Broken(f"an expired presigned DELETE was answered {status}, and the object {left}")
    in_time = place.send(httpx.Request("DELETE", place.bucket.sign_deletes([key], 60)[key])).status_code
    if in_time != httpx.codes.NO_CONTENT or place.bucket.head(key):
        raise Broken(f"a presigned DELETE that had not expired was answered {in_time}")
    return f"a presigned DELETE works within its {_EXPIRES} s, and is refused ({status}) {_AFTERWARDS} s later"


def _stale_delete(place: Scratch) -> str:
    key, now = place.key("stale.mp4"), place.bucket.server_time()
    place.put(key, b"x")
    answer = place.send(place.sign_delete(key, now - _STALE))
    if answer.status_code != httpx.codes.FORBIDDEN or place.bucket.head(key) is None:
        left = "stands" if place.bucket.head(key) else "is gone"
        raise Broken(f"a DELETE signed 20 min ago was answered {answer.status_code}, and the object {left}")
    code = re.search(r"<Code>(\w+)</Code>", answer.text)
    fresh = place.send(place.sign_delete(key, now)).status_code
    if fresh != httpx.codes.NO_CONTENT or place.bucket.head(key):
        raise Broken(f"a DELETE signed now was answered {fresh}")
    return f"a DELETE signed 20 min ago is refused ({code[1] if code else answer.status_code}), one signed now works"


def _batch_delete(place: Scratch) -> str:
    keys = [place.key(f"{n}.mp4") for n in range(5)]
    for key in keys:
        place.put(key, b"x")
    _same(
        "failures of a batch with one key that does not exist",
        place.bucket.delete([*keys[:3], place.key("no.mp4")]),
        {},
    )
    _same("the same batch again", place.bucket.delete(keys[:3]), {})
    _same("what is left", list(place.listed()), keys[3:])
    return "a batch delete confirms each key, also one that never existed, and can be repeated"


def _versions(place: Scratch) -> str:
    key = place.key("version.mp4")
    place.put(key, b"first")
    time.sleep(_BETWEEN_WRITES)
    place.put(key, b"second")
    _same("failures of a delete", place.bucket.delete([key]), {})
    if left := place.versions(key):
        raise Broken(f"after an overwrite and a delete, {left} versions of an object stay stored, and billed")
    if why := place.bucket.versions_left():
        raise Broken(why)
    return "overwritten and deleted bytes are gone: the bucket keeps no versions"


def _odd_names(place: Scratch) -> str:
    keys = {place.key(f"{name}.mp4"): name.encode() for name in ODD_NAMES}
    keys[place.key("x" * (1024 - len(place.bucket.prefix.encode())))] = b"1,024 bytes"
    for key, data in keys.items():
        place.put(key, data)
        _same(f"the object at {key!r}", place.bucket.read_bytes(key), data)
    _same("a listing of odd keys", set(place.listed()), set(keys))
    _same("failures to delete odd keys", place.bucket.delete(list(keys)), {})
    _same("remaining odd keys", place.listed(), {})
    return f"{len(keys)} keys with spaces, signs, other scripts and 1,024 bytes are stored and listed unchanged"


def _consistency(place: Scratch) -> str:
    rounds = 20
    for number in range(rounds):
        key, data = place.key(f"{number}.mp4"), f"{number}".encode()
        place.put(key, data)
        head = place.bucket.head(key)
        _same("a HEAD right after a put", head and head.etag, _md5(data))
        _same("a GET right after a put", place.bucket.read_bytes(key), data)
        if key not in place.listed():
            raise Broken(f"{key} is not in a listing right after its put")
        _same("failures of a delete", place.bucket.delete([key]), {})
        if place.bucket.head(key) or key in place.listed():
            raise Broken(f"{key} is still there right after its delete")
    return f"new objects are read and listed at once, and deleted ones no longer, {rounds} times of {rounds}"


def _checksums(place: Scratch) -> str:
    key, data = place.key("sum.mp4"), secrets.token_bytes(1_000_000)
    wrong = b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    try:
        place.put(key, data, ContentMD5=wrong)
    except ReelkeeperError as error:
        if "Digest" not in str(error):
            raise
    else:
        raise Broken("a put with a wrong Content-MD5 was accepted")
    _same("after a refused put", place.bucket.head(key), None)
    place.put(key, data)
    _same("1,000,000 bytes read back", place.bucket.read_bytes(key, len(data)), data)
    return "a put with a wrong Content-MD5 is refused, and bytes are read back unchanged"


def _private(place: Scratch) -> str:
    key = place.key("private.mp4")
    place.put(key, b"x")
    url = place.bucket.presigned("get_object", key, 60).partition("?")[0]
    status = place.send(httpx.Request("GET", url)).status_code
    if status == httpx.codes.OK:
        raise Broken("anybody can read an object at the S3 endpoint without a signature")
    return f"a request without a signature is refused ({status})"


CHECKS: Final[dict[str, Callable[[Scratch], str]]] = {
    "put once": _written_once,
    "put once, at once": _written_once_at_once,
    "lost reply": _lost_reply,
    "put if it matches": _if_match,
    "put if it matches, at once": _if_match_at_once,
    "copy": _copy,
    "ETag": _etag,
    "read if it matches": _read_conditions,
    "listing": _listing,
    "times": _times,
    "clock": _clock,
    "same bytes again": _same_bytes_again,
    "expired delete": _expired_delete,
    "stale delete": _stale_delete,
    "batch delete": _batch_delete,
    "versions": _versions,
    "odd keys": _odd_names,
    "consistency": _consistency,
    "checksums": _checksums,
    "private": _private,
}
# Where one of these fails, also objects at keys of ours can be lost, or other bytes be taken for them.
DANGEROUS: Final = frozenset({"put once", "put once, at once", "ETag", "consistency"})
