"""A data plane on a Ray cluster of two nodes, and the loss of one of them.

Both run on this machine, so its kernel ends their connections.
`tests/stream/test_silent_engines.py` covers a host that stops answering.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest
from ray.cluster_utils import Cluster

from broadsheet import Client
from tests.e2e.asking import Asking
from tests.e2e.real_model import CAPITAL, STATE, ask, state_of
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FAR_CPUS = 2
"""CPUs that only the second node has."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The first node, which has room for replicas without CPUs."""
    # Ray's sockets have paths of at most 107 characters: pytest's directory is too deep.
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="bs-ray-"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": FAR_CPUS - 1, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


@pytest.fixture
def stack(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack"), dataplane_arguments=("--ray-address", cluster.address))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def register(client: Client, model: str, *, cpus: int) -> None:
    args = {"tokens_per_second": 5, "text": "word " * 5000, "max_tokens": 5000} if cpus else {}
    spec = {
        "engine": {"kind": "SIMULATED", "args": args},
        "resources": {"cpus": cpus},
        "scaling": {"min_replicas": 1},
    }
    client.register_model(model, spec=spec)
    client.wait_until_serving(model, timeout_s=60, require_ready=True)


def lose(node: Any) -> None:
    """`kill -9` everything that runs on a node, its raylet first."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    workers = raylet.children(recursive=True)
    assert any("ServeReplica:broadsheet-far" in " ".join(worker.cmdline()) for worker in workers)
    for process in (raylet, *workers):
        process.kill()


def test_a_lost_node_takes_only_its_models_with_it(stack: Stack, cluster: Cluster) -> None:
    with stack.client() as client:
        register(client, "near", cpus=0)
        node = cluster.add_node(num_cpus=FAR_CPUS)
        register(client, "far", cpus=FAR_CPUS)
        with Asking(stack, "near") as near:
            stream = stack.openai().chat.completions.create(model="far", messages=CAPITAL, stream=True)
            next(stream)
            lose(node)
            with pytest.raises(openai.APIError) as caught:
                for _ in stream:
                    pass
            assert caught.value.code == "engine_disconnected"
            deploying = STATE.RESOURCE_STATE_DEPLOYING
            until(lambda: state_of(client, "models/far") == deploying, 30, "the model to be seen gone")

            answered: list[str] = []
            held = threading.Thread(target=lambda: answered.append(ask(stack, "far")))
            held.start()
            time.sleep(5)
            assert held.is_alive(), "there is no room for the model"
            cluster.add_node(num_cpus=FAR_CPUS)
            held.join(120)
            assert len(answered) == 1
            until(lambda: state_of(client, "models/far") == STATE.RESOURCE_STATE_READY, 30, "READY")
        assert (near.answered > 50, near.failures) == (True, [])
    assert stack.readyz() == 200
