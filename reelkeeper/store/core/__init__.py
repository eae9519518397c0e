"""The engine, the schema, and records that every capability keeps: audit, leases, heartbeats."""
