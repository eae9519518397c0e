"""Draw and describe a month."""
