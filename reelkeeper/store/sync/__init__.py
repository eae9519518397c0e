"""Scans of the bucket, and objects without a row of `blobs`."""
