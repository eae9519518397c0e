"""The hands: what flows do, as Prefect tasks by noun."""
