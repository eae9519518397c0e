"""Benchmarks: our code against floors and named peers, in one run on one machine."""
