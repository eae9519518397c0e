"""Object storage over S3: R2, and the embedded SeaweedFS."""
