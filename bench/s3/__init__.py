"""Shared by the benchmarks of the bucket: a set of objects, the peers, and a stopwatch."""
