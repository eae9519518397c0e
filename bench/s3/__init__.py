"""What the benchmarks of the bucket share: a shelf full of objects, the peers, and a stopwatch."""
