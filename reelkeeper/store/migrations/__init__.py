"""Alembic's folder: how the schema came to be. A released revision is never edited."""
