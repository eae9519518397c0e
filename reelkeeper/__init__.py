"""Keeps an AI-video service on Cloudflare R2 affordable, and never loses a video."""

import os

# Before numpy is loaded: threads for a forecast's small matrices only wait for each other, twice the CPU of one on a
# quiet machine and five times beside encoders.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
