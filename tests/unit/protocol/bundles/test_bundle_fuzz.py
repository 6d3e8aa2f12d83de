"""Mutated bundles are refused with a reason. `make fuzz-bundles` tries 100,000."""

from __future__ import annotations

from tests.bundle_fuzz import fuzz

COUNT = 3000
"""Bundles. They take half a second."""


def test_no_mutated_bundle_crashes_or_is_taken_for_another_snapshot() -> None:
    outcomes = fuzz(COUNT, seed=20261129)
    assert outcomes.total() == COUNT
    # The mutations get as far as each check.
    expected = {"FORM_INVALID", "HASH_MISMATCH", "BLOB_DIGEST_MISMATCH", "ROOT_DIGEST_MISMATCH", "SIGNATURE_INVALID"}
    expected |= {"REFERENCE_MISSING", "KEY_NOT_TRUSTED", "ENTRY_INVALID", "TOO_LARGE"}
    assert expected <= outcomes.keys()
