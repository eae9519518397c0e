"""The rules at work on generated load, by a virtual clock: what an operator looks at before changing a policy.

Everything here is deterministic by its seed, and its figures are models: they compare policies, they predict nothing.
"""
