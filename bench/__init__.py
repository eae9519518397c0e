"""Side by side: ours, a floor, and named peers, in one run on one machine."""
