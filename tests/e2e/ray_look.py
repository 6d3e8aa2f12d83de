"""Reads requests from standard input, a line each, and answers what it sees in a Ray cluster.

`tests/e2e/stack.py` keeps it running beside the data plane, as joining a cluster takes seconds of
processor time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from dataplane.cluster_names import in_data_plane
from dataplane.relay.actor import RAY_NAMESPACE, open_relay
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Topic, engine_of


def _applications() -> Mapping[str, Any]:
    """By name within the data plane `local`."""
    found: Mapping[str, Any] = _get_global_client().get_serve_details()["applications"]
    return {own: found[name] for name in found if (own := in_data_plane(name, "local")) is not None}


def replicas() -> dict[str, list[str]]:
    """Ids of the live replicas, by application."""
    return {
        name: sorted(
            replica["replica_id"]
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
            if replica["state"] in ("STARTING", "RUNNING")
        )
        for name, application in _applications().items()
    }


def all_replicas() -> dict[str, int]:
    """How many replicas each application has, in whatever state."""
    return {
        name: sum(len(deployment["replicas"]) for deployment in application["deployments"].values())
        for name, application in _applications().items()
    }


def status_s() -> float:
    """How long `serve.status()` takes, in seconds."""
    began = time.perf_counter()
    serve.status()
    return time.perf_counter() - began


def process(application: str) -> int:
    """The process id of an application's first replica."""
    (deployment,) = _applications()[application]["deployments"].values()
    pid: int = deployment["replicas"][0]["pid"]
    return pid


def engines(model: str) -> list[tuple[str, str]]:
    """Where the engine replicas of a model listen, and their secrets."""
    return [(urls[0], secret) for urls, secret in _listeners(model)]


def front_ends(model: str) -> list[tuple[str, str]]:
    """The same of each front end of each replica."""
    return [(url, secret) for urls, secret in _listeners(model) for url in urls]


def _listeners(model: str) -> list[tuple[tuple[str, ...], str]]:
    """The front ends of each engine replica of a model, and its secret."""
    found = asyncio.run(Relay(None, open_actor=partial(open_relay, "local")).read([Topic.APPLICATIONS, Topic.ENGINES]))
    records = found.values(Topic.APPLICATIONS)
    of_replicas = ((records[engine_of(name)[0]], report) for name, report in found.values(Topic.ENGINES).items())
    return [
        ((report.url, *report.further_urls), record.secret) for record, report in of_replicas if record.model == model
    ]


def memory_bytes() -> int:
    """All memory that Ray can allocate, in bytes."""
    return int(ray.cluster_resources()["memory"])


LOOKS: Mapping[str, Callable[..., object]] = {
    look.__name__: look for look in (replicas, all_replicas, status_s, process, engines, front_ends, memory_bytes)
}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray prints to the same stream at any time
    ray.init(address=sys.argv[1], namespace=RAY_NAMESPACE, log_to_driver=False, configure_logging=False)
    for line in sys.stdin:
        look, *arguments = json.loads(line)
        answers.write(json.dumps(LOOKS[look](*arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
