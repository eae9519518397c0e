"""Set up a Prefect server for Reelkeeper, deploy its flows, and run workers and `reelkeeper up`."""
