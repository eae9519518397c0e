"""One file, or package, for each outside system."""
