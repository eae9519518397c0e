"""Fixtures of the whole suite, by what they stand on."""

pytest_plugins = ["tests.databases", "tests.buckets", "tests.clips"]
