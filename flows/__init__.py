"""The flows, one in each file: gather, decide, act."""
