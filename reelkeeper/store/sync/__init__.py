"""Store scans of the bucket, and objects without a row of `blobs`."""
