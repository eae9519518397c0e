"""Generate keys from valid and hostile parts, and mutate them."""

import random
from collections.abc import Iterator

VALID = ("ann", "one.mp4", "g1-0123456789abcdef.webm", "a b", "ä", "日本", "🎬", "a+b", "100%", "-", "_", "a..b", "...")
HOSTILE = (
    *("..", ".", "", "/", "//", "\\", "..\\", "%2e%2e", "%2f", "..%2f", ".uploads", "a.versions", "\x00", "\r\n", "\t"),
    *("a\u0308", "\u212b", "\u2028", "\ufeff", "\u202e", "\uffff", "~", "?x=1", "#y", "videos", "other", " ", "*", "+"),
    *("\ud800", "&list-type=2", ";", "a" * 1100, "🎬" * 260),
)
PREFIXES = ("videos/",) * 8 + ("videos", "/videos/", "Videos/", "videos//", "videos/../", "", "other/", "%76ideos/")


def hostile_keys(count: int, seed: int, prefix: str = "videos/") -> Iterator[str]:
    """Yield `count` keys, the same for the same seed, about one in five of them harmless."""
    chance = random.Random(seed)
    for _ in range(count):
        pool = VALID if chance.random() < 0.4 else VALID + HOSTILE
        pieces = chance.choices(pool, k=chance.randint(0, 5))
        key = chance.choice(PREFIXES).replace("videos/", prefix, 1) + chance.choice(("/", "/", "")).join(pieces)
        match chance.randint(0, 11):
            case 0:
                key = key[: chance.randint(0, len(key))]
            case 1:
                key += key
            case 2:
                key = key[::-1]
            case 3:
                key = key.upper()
            case 4:
                place = chance.randint(0, len(key))
                key = (
                    key[:place]
                    + chr(chance.choice((chance.randint(0, 0x2FF), chance.randint(0, 0xFFFF))))
                    + key[place:]
                )
            case 5:
                key += chance.choice(HOSTILE)
            case _:
                pass
        yield key
