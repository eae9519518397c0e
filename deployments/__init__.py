"""What sets Reelkeeper up and shows it: the demo, and what reads the schedule."""
