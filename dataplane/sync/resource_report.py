"""Which resource states, and which traffic, the control plane does not know yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.snapshot.persistent.sorted_map import SortedMap

RESOURCES_PER_STATUS_MAX = 1000
STATUS_BYTES_MAX = 1024 * 1024
"""Bounds of the resources in one Status. The server takes 4 MiB, and 1000 engine errors can be more
than that."""

TEXT_CHARACTERS_MAX = 4096
"""Characters of a message. The server refuses longer ones, and engine errors can be longer."""


class ResourceReport:
    """The difference between the current states and those that were sent on this stream.

    Only the newest state of each resource is kept, so memory is bounded by the number of resources.
    """

    def __init__(self) -> None:
        self._current: SortedMap[str, status_pb2.ResourceStatus] = SortedMap()
        self._sent: dict[str, status_pb2.ResourceStatus] = {}
        self._changed: dict[str, None] = {}
        """Names to send, in order. Their state differs from what was sent."""
        self._removed: dict[str, None] = {}
        """Names to send as removed, in order. They were sent, and are not current any more."""
        self._traffic: pb.Traffic | None = None
        self._sent_traffic: pb.Traffic | None = None

    @property
    def is_due(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._changed or self._removed or self._traffic != self._sent_traffic)

    def set(self, resources: Mapping[str, status_pb2.ResourceStatus], traffic: pb.Traffic | None = None) -> None:
        """Replace the current states, by resource name. The caller must not change them later.

        If they are a version of the sorted map that was set before, this takes time in proportion
        to what differs.

        Args:
            resources: All states.
            traffic: What the ingress has answered; None: as before.
        """
        before = self._current
        self._current = resources if isinstance(resources, SortedMap) else SortedMap.of(resources)
        self._traffic = traffic or self._traffic
        self._compare(self._current.changed_keys(before))

    def restart(self) -> None:
        """Begin a new stream, on which nothing was sent."""
        self._sent, self._changed, self._removed, self._sent_traffic = {}, {}, {}, None
        self._compare(self._current)

    def _compare(self, names: Iterable[str]) -> None:
        """Find out which of these states have to be sent, or need not be any more."""
        for name in names:
            status, sent = self._current.get(name), self._sent.get(name)
            self._changed.pop(name, None)
            self._removed.pop(name, None)
            if status is None and sent is not None:
                self._removed[name] = None
            elif status is not None and status != sent:
                self._changed[name] = None

    def fill(self, status: pb.Status) -> None:
        """Move as many changes into `status` as fit. They count as sent."""
        size = 0
        while self._changed and len(status.resources) < RESOURCES_PER_STATUS_MAX and size < STATUS_BYTES_MAX:
            name = next(iter(self._changed))
            del self._changed[name]
            self._sent[name] = self._current[name]
            resource = _shortened(self._current[name])
            status.resources.append(resource)
            size += resource.ByteSize()
        while self._removed and len(status.removed) < RESOURCES_PER_STATUS_MAX:
            name = next(iter(self._removed))
            del self._removed[name]
            del self._sent[name]
            status.removed.append(name)
        if self._traffic is not None and self._traffic != self._sent_traffic:
            status.traffic.CopyFrom(self._traffic)
            self._sent_traffic = self._traffic


def _shortened(resource: status_pb2.ResourceStatus) -> status_pb2.ResourceStatus:
    if len(resource.message) <= TEXT_CHARACTERS_MAX:
        return resource
    copy = status_pb2.ResourceStatus()
    copy.CopyFrom(resource)
    # Engines print the cause at the end.
    copy.message = "…" + resource.message[-(TEXT_CHARACTERS_MAX - 1) :]
    return copy
