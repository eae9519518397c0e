"""Diagnose the installation, and detect flows that no longer run."""
