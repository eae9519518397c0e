"""The workspace, leases, the freeze, tokens and the bucket's contract, which all capabilities use."""
