"""Report a month in charts, tables and sentences."""
