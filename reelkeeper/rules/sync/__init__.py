"""Whether key patterns fit a bucket."""
