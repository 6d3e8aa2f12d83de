"""One pair of planes for all attacks, and a neighbour of the attackers."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.stack import Stack, until
from tests.hostile.measuring import Listener
from tests.hostile.neighbour import CHAT, REGISTRY, Neighbour

MODEL = "m"
_OPEN_FILES = 1024
"""The limit of open files that most systems start a process with."""
_WARM_UP_S = 0.5
_DATA_PLANE = (
    "--ingress-replicas",
    "1",
    "--max-body-bytes",
    str(4 * 1024 * 1024),
    "--max-held-body-bytes",
    str(16 * 1024 * 1024),
)
"""With one ingress replica, attackers and their neighbour share a process. What callers with a key
may make it hold is a setting, so it is set to less than the memory that is allowed."""


@pytest.fixture(scope="session")
def key(stack: Stack) -> str:
    """A valid API key, for a model that is ready. Without one, nobody may call the model."""
    with stack.client() as client:
        client.register_model(
            MODEL,
            spec={
                "engine": {"kind": "SIMULATED"},
                "resources": {"cpus": 0},
                "scaling": {"min_replicas": 1},
                "admission": {"max_ongoing_requests": 100},
            },
        )
        made = client.create_api_key("neighbour", allowed_served_names=["*"])
        client.wait_for_revision(made.catalog_revision, timeout_s=60)
    until(lambda: bool(stack.look("engines", f"models/{MODEL}")), 120, "a ready engine")
    return made.key


@pytest.fixture(scope="session")
def attackers_key(stack: Stack, key: str) -> str:
    """Another valid API key: what is shared out among keys is not the neighbour's to lose."""
    with stack.client() as client:
        made = client.create_api_key("attacker", allowed_served_names=["*"])
        client.wait_for_revision(made.catalog_revision, timeout_s=60)
    return made.key


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both planes."""
    made = Stack(tmp_path_factory.mktemp("hostile"), dataplane_arguments=_DATA_PLANE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
    try:
        made.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the attackers open thousands
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def neighbour(stack: Stack, key: str) -> Iterator[Neighbour]:
    with Neighbour(http=stack.http_address, key=key, model=MODEL, control_plane=stack.controlplane_address) as made:
        for what in (CHAT, REGISTRY):  # connections, imports and caches
            made.begin(what)
            time.sleep(_WARM_UP_S)
            made.end()
        yield made


@pytest.fixture(scope="session")
def listeners(stack: Stack, attackers_key: str, neighbour: Neighbour) -> Mapping[str, Listener]:
    """The listening ports of Broadsheet. Ray has others, on which only Ray listens."""
    assert stack.controlplane.popen is not None
    ((engine_url, _),) = stack.look("engines", f"models/{MODEL}")
    engine = urlsplit(engine_url)
    host, port = _host_and_port(stack.http_address)
    rpc_host, rpc_port = _host_and_port(stack.controlplane_address)
    assert engine.hostname is not None
    assert engine.port is not None
    return {
        "control plane": Listener(rpc_host, rpc_port, psutil.Process(stack.controlplane.popen.pid), REGISTRY),
        "ingress": Listener(host, port, stack.process("ray::ServeReplica:broadsheet-ingress"), CHAT, key=attackers_key),
        "engine": Listener(engine.hostname, engine.port, stack.process(f"ray::ServeReplica:broadsheet-{MODEL}-"), CHAT),
    }


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
