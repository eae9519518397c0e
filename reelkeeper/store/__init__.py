"""The store: tables, migrations, and queries named for the question asked."""
