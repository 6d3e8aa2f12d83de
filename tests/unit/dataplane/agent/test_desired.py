"""What an entry asks of its application."""

from __future__ import annotations

import copy

from dataplane.agent.desired import application_name
from tests.unit.dataplane.agent.reconciler.situations import entry


def test_application_name_changes_only_with_what_needs_new_replicas() -> None:
    base = application_name(entry())

    def after(change: str) -> str:
        changed = copy.deepcopy(entry())
        exec(change, {"entry": changed})  # noqa: S102
        return application_name(changed)

    spec = "entry.revision.spec."
    for harmless in (
        "entry.served_name = 'x'",
        "entry.labels['a'] = 'b'",
        "entry.revision.number = 7",
        "entry.revision.card.description = 'x'",
        f"{spec}admission.max_ongoing_requests = 3",
        f"{spec}scaling.downscale_to_zero_delay.seconds = 1",
        f"{spec}scaling.min_replicas = 2",
        f"{spec}scaling.max_replicas = 4",
    ):
        assert after(harmless) == base, harmless
    for restart in (
        "entry.uid = 'another'",
        f"{spec}source.uri = 'file:///x'",
        f"{spec}engine.args['a'] = 1",
        f"{spec}resources.cpus = 2",
        f"{spec}lora.max_rank = 8",
        f"{spec}scaling.idle = 2",
    ):
        assert after(restart) != base, restart
