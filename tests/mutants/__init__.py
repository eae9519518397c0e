"""A seeded sample of changes to unmarked code, each with the nearest tests that run it: do they notice?

The marked guards are switched off one by one in tests/ablation; what stands beside them is sampled here. `python -m
tests.mutants` changes one place at a time, in the same warm processes, and gives each mutant a verdict: killed, by
which test; survived; or equivalent, by a reason that a person has written into equivalent.toml. A survivor is a
question, not a fault: either a promise has no test, or the code is not needed, or the mutant changes nothing that
anybody was promised.
"""
