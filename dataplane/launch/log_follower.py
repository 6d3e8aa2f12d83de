"""Copies what the replicas of one data plane log to stderr, whoever has started them.

Ray copies only the logs of this process's own job, or else those of all jobs of the cluster.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import structlog

from dataplane.cluster_names import in_data_plane

_POLL_S = 1.0
_ACTOR_PREFIX = "ServeReplica:"
"""How Ray Serve's replicas call themselves in Ray's logs: `ServeReplica:APPLICATION:DEPLOYMENT`."""

_log = structlog.get_logger("dataplane")


class LogFollower:
    """Follows the logs from `start` to `stop`, in a thread. Lines logged before are not shown."""

    def __init__(self, data_plane_id: str) -> None:
        self._data_plane_id = data_plane_id
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Ray must have been joined."""
        subscriber = ray._raylet.GcsLogSubscriber(address=ray.get_runtime_context().gcs_address)
        subscriber.subscribe()
        self._thread = threading.Thread(target=self._follow, args=(subscriber,), name="logs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, if it was started."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(2 * _POLL_S)

    def _follow(self, subscriber: Any) -> None:
        try:
            while not self._stopped.is_set():
                batch = subscriber.poll(timeout=_POLL_S)
                for line in lines_of(batch or {}, self._data_plane_id):
                    print(line, file=sys.stderr, flush=True)  # noqa: T201  # these are logs already
        except Exception as error:
            _log.error("logs_not_followed", error=repr(error))
        finally:
            subscriber.close()


def lines_of(batch: Mapping[str, Any], data_plane_id: str) -> Iterator[str]:
    """The lines to show of a batch of Ray's log monitor: those of the data plane's replicas."""
    actor = str(batch.get("actor_name") or "")
    application, _, _ = actor.removeprefix(_ACTOR_PREFIX).partition(":")
    if not actor.startswith(_ACTOR_PREFIX) or in_data_plane(application, data_plane_id) is None:
        return
    for line in batch.get("lines", ()):
        yield f"({actor} pid={batch.get('pid')}, ip={batch.get('ip')}) {line}"
