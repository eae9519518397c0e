"""Check key patterns against a bucket, and parse its event notifications."""
