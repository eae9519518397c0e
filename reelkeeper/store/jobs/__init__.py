"""The queue, its claims and its limits."""
