"""Diagnose the installation, and notice what has fallen silent."""
