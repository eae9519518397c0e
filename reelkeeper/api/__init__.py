"""The HTTP API: what the video service asks while a user waits. Thin over operations."""
