"""The HTTP API for requests of the video service while a user waits. Thin over operations."""
