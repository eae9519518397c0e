"""The workspace, leases, the freeze, tokens and the bucket's contract: what each capability stands on."""
