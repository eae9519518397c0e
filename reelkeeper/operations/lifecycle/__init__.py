"""Compress, retire, restore and purge videos."""
