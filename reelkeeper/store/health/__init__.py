"""Figures of performance."""
