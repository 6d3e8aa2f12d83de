"""The metrics of engine replicas: a list for Prometheus to discover them, and the page of each.

Engines answer nobody but the ingress, so it passes their pages on, as they are. The list is that of
Prometheus's HTTP service discovery. It gives each page the labels `model` and `replica`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from dataplane.ingress.upstream import Upstream, UpstreamFailed, engine_headers
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Headers
from dataplane.snapshot.activation import Activation, Endpoint
from dataplane.snapshot.api_key import ApiKey

ENGINES_PATH = "/metrics/engines"
"""The list."""
PAGES_PREFIX = f"{ENGINES_PATH}/"
"""Before a replica's id: its page."""

_ENGINE_PATH = "/metrics"
_KEPT_S = 1.0
"""A page is fetched again after this time. It bounds what callers cost an engine."""
_TIMEOUT_S = 10.0
"""Prometheus's own timeout."""
_PAGE_BYTES_MAX = 8 * 1024 * 1024
"""vLLM's page has about 60 kB."""
_MODELS_PREFIX = "models/"


@dataclass(frozen=True, slots=True)
class Page:
    """The metrics of one engine replica."""

    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Replica:
    model: str
    """The id of the model; of a revision that is pinned or tried out, `{model}/revisions/{n}`."""
    endpoint: Endpoint
    secret: str


def may_scrape(key: ApiKey | None) -> bool:
    """Whether a caller may see the engines: their pages name models and adapters."""
    return key is None or key.sees_everything


def engine_list(activation: Activation, host: str) -> bytes:
    """The engine replicas, as Prometheus's HTTP service discovery expects them.

    Args:
        activation: Where they are.
        host: Where the caller has reached the ingress: host, with the port if it has one.
    """
    groups = [
        {
            "targets": [host],
            "labels": {
                "__metrics_path__": PAGES_PREFIX + replica.endpoint.replica_id,
                "model": replica.model,
                "replica": replica.endpoint.replica_id,
            },
        }
        for replica in _replicas(activation)
    ]
    return msgspec.json.encode(groups)


class EnginePages:
    """The pages. Callers who ask at the same time share one request to the engine."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float]) -> None:
        """
        Args:
            upstream: Connections to engine replicas.
            clock: Seconds, monotonic.
        """
        self._upstream = upstream
        self._clock = clock
        self._fetched: dict[str, tuple[float, asyncio.Task[Page]]] = {}
        """When each page was asked for, and the page, by the replica's id."""

    async def page(self, activation: Activation, replica_id: str, request_id: str) -> Page | None:
        """The metrics of a replica, at most a second old; None: there is no such replica.

        Raises:
            openai_errors.EngineSilent: The page did not come within 10 s.
            openai_errors.EngineUnreachable: The replica has no page, or one above 8 MiB.
        """
        replica = next((one for one in _replicas(activation) if one.endpoint.replica_id == replica_id), None)
        if replica is None:
            return None
        now = self._clock()
        for other, (asked_at, task) in tuple(self._fetched.items()):
            if task.done() and now - asked_at >= _KEPT_S:
                del self._fetched[other]
        if replica_id not in self._fetched:
            task = asyncio.create_task(self._fetch(replica, request_id), name="engine's metrics")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the callers may have left
            self._fetched[replica_id] = (now, task)
        return await asyncio.shield(self._fetched[replica_id][1])

    async def _fetch(self, replica: _Replica, request_id: str) -> Page:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._ask(replica, request_id)
        except TimeoutError:
            raise openai_errors.EngineSilent(replica.model, _TIMEOUT_S) from None
        except UpstreamFailed as error:
            raise openai_errors.EngineUnreachable(replica.model) from error

    async def _ask(self, replica: _Replica, request_id: str) -> Page:
        headers = engine_headers([], request_id=request_id, secret=replica.secret, served_name="", adapter=None)
        # The client of the ingress only posts. For a page of metrics, the method is all the same.
        answer = await self._upstream.start(replica.endpoint, _ENGINE_PATH, b"", headers, b"")
        try:
            body, chunk = bytearray(), answer.first
            while chunk and len(body) <= _PAGE_BYTES_MAX:
                body += chunk
                chunk = await answer.more()
            if answer.status != 200 or chunk:
                raise openai_errors.EngineUnreachable(replica.model)
            kept = [(name, value) for name, value in answer.headers() if name == b"content-type"]
            return Page(kept, bytes(body))
        finally:
            answer.close()

    async def aclose(self) -> None:
        """End what is being fetched."""
        tasks = [task for _, task in self._fetched.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _replicas(activation: Activation) -> Iterator[_Replica]:
    for name, model in activation.models.items():
        for endpoint in model.endpoints:
            yield _Replica(name.removeprefix(_MODELS_PREFIX), endpoint, model.secret)
