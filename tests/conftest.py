"""Fixtures of the whole suite, by what they stand on."""

from hypothesis import settings

pytest_plugins = ["tests.databases", "tests.buckets", "tests.clips", "tests.cloudflare"]

settings.register_profile("shared", deadline=None)  # how long one example takes says nothing on a busy machine
settings.load_profile("shared")
