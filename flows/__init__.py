"""Prefect flows, one per file: gather, decide, act."""
