"""The story: one file, one flow. Gather, decide, act."""
