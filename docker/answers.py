#!/usr/bin/env python
"""Does an address answer with 2xx? The healthcheck of what serves HTTP: exit code 0, or 1 and what it said.

A program with an address, and not a line of Python in compose.yaml: podman splits a healthcheck at each space.
"""

import sys
from urllib.error import URLError
from urllib.request import urlopen

MAX_SECONDS = 5.0

if __name__ == "__main__":
    try:
        urlopen(sys.argv[1], timeout=MAX_SECONDS).close()  # noqa: S310  the address stands in compose.yaml
    except URLError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
