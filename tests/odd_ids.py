"""Ids as services have them, and twins that look alike: all of them different."""

import unicodedata
from random import Random

NAMED = (
    "gina@example.com",
    "auth0|5f7c",
    "Zoe K",
    "6f1c1c1e-8a0e-4b7c-9d51-2f1f6a1f0c11",
    "日本語",
    "jörg",
    "..",
    ".",
    "a/b",
    "a%2Fb",
    "a%b",
    "=cmd|' /C calc'!A0",
    "+1 555",
    "@here",
    "-rf",
    'o\'brien "x"',
    "back\\slash",
    "a/export",
    "a",
    "A",
    "<script>",
    "*bold* _it_",
    "[link](x)",
    "🎬",
    "x.versions",
    ".images",
    "null",
    "0",
    "user",
    "a b",
    "a-b",
    "a_b",
    "erased",
    "café",
    "cafe\u0301",
    "cafe",
    "ann@example.com",
    "ann",
    "{user}",
    "a,b",
    "a;b",
    "#1",
    "a?b=c",
    "a&b",
    "~root",
    "gina=40example.com",
    "a" * 200,
    "é" * 200,
    "日" * 200,
    "a=b",
    "==",
)
_ALPHABETS = (
    "abcXYZ019",
    "ab@.+-",
    "ab|:",
    "aB cD",
    "ab'\"`",
    "a%20F",
    "a/..",
    "éüñçß",
    "日本語中",
    "абвж",
    "🎬🎉👩\u200d🚀",
    "=+-@",
    "a\\b",
    "e\u0301a\u0308",
    "<>&*_~",
    "{}[]()",
    "#?&;,",
    "عربي",
    "हिन्दी",
)


def odd_ids(count: int, seed: int) -> list[str]:
    """Make `count` different ids; many have a twin in case or in Unicode's normal form beside them."""
    random, found = Random(seed), dict.fromkeys(NAMED)
    while len(found) < count:
        letters = random.choice(_ALPHABETS) + random.choice(("", "xyz", *_ALPHABETS))
        text = "".join(random.choices(letters, k=random.choice((1, 2, 3, 5, 8, 12, 40, 200)))).strip()[:200]
        twins = (text, text.swapcase(), unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        found |= {twin: None for twin in twins if 0 < len(twin.strip()) == len(twin) <= 200}
    return list(found)[:count]
