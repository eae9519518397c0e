"""Fixtures of the whole suite, by what they stand on."""

import os

from hypothesis import settings

os.environ["COLUMNS"] = "100"  # as wide as where there is no terminal: pytest-xdist says 80

pytest_plugins = ["tests.databases", "tests.buckets", "tests.clips", "tests.cloudflare"]

settings.register_profile("shared", deadline=None)  # how long one example takes says nothing on a busy machine
settings.load_profile("shared")
