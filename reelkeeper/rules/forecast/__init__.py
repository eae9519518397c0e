"""Forecast usage: `month` sums days to months, `storage` and `costs` turn usage into a bill."""
