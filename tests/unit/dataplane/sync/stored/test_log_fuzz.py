"""Mutated logs crash nothing and activate nothing invalid. `make fuzz-logs` tries 100,000."""

from __future__ import annotations

from tests.log_fuzz import COMMITTED, Fuzzer

COUNT = 1500
"""Logs. They take a second and a half."""


def test_a_mutated_log_leads_to_a_committed_snapshot_and_can_be_followed() -> None:
    fuzzer = Fuzzer(20261129)
    fuzzer.run(COUNT)
    assert fuzzer.wrong == []
    booted = {f"{how}: booted revision {each.position.revision}" for how in ("damaged", "forged") for each in COMMITTED}
    assert booted <= set(fuzzer.outcomes), "the mutations break everything, or nothing"
