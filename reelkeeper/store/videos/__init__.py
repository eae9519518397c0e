"""Videos, blobs and imports."""
