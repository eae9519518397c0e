"""Which requests have the same answer? Keys that tell them apart.

A request is the same as another when everything that shapes its video is: the key is the SHA-256 of all of it as
canonical JSON, with the user's id in it unless the video may be shared.
"""

import hashlib
import json
from collections.abc import Mapping


def key(request: Mapping[str, object], user_id: str | None) -> str:
    """Give the key of a request: model, version, prompts, image hash, size, duration, frame rate, seed, parameters.

    `user_id` None shares the answer with everybody. ValueError if `request` holds what JSON cannot say exactly.

    >>> same = key({"prompt": "a fox", "seed": 7}, "ana") == key({"seed": 7, "prompt": "a fox"}, "ana")
    >>> same, key({"prompt": "a fox"}, "ana") == key({"prompt": "a fox"}, "ben")
    (True, False)
    """
    whole = {"request": dict(request), "tenant": user_id}
    told = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(told.encode()).hexdigest()
