"""Admit, dispatch, run and settle generation jobs."""
