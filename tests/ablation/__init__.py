"""No guard without a witness: each clause that protects data, money or access is switched off, and a test must notice.

In the code, such a clause has a marker before it or behind it, with what it prevents:

    # guard purge.frozen: a run that slept through a freeze deletes nothing more

and in tests/ablation/witnesses, an entry of the same name says what to write instead, and which tests then fail:

    ["purge.frozen"]
    clause = "require_permission(session, batch.lease)"
    without = "pass"
    noticed_by = ["tests/operations/lifecycle/test_purge.py::test_a_freeze_between_claim_and_delete"]

Where one guard stands behind another, `masked_by` names the other, and both are switched off.
`python -m tests.ablation` checks markers against entries, and finds witnesses.
"""
