"""Notes of objects that no row explains."""
