#!/usr/bin/env python
"""Check that a URL answers with 2xx, as the healthcheck of an HTTP service: exit code 0, or 1 with the answer.

This is a program, and not a line of Python in compose.yaml, because podman splits a healthcheck at each space.
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
