"""The judgement: pure functions from values to values, and the policies that hold their thresholds."""
