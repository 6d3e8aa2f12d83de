"""What the processes of a data plane on a Ray cluster of its own listen on."""

from __future__ import annotations

import pytest

from broadsheet import Client
from tests.e2e.listeners import outward_listeners
from tests.e2e.real_model import ask
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_a_data_plane_told_to_listen_on_loopback_listens_nowhere_else(stack: Stack, client: Client) -> None:
    spec = {"engine": {"kind": "SIMULATED"}, "resources": {"cpus": 0}, "scaling": {"min_replicas": 1}}
    client.register_model("indoors", spec=spec)
    client.wait_until_serving("indoors", timeout_s=60, require_ready=True)
    assert "simulated answer" in ask(stack, "indoors")
    assert outward_listeners(stack, with_process="ray::ServeReplica:broadsheet-indoors") == set()
    client.delete_model("indoors", force=True)
