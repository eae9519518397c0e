"""Admission, order, retries, cache and concurrency of generation jobs."""
