"""How the control plane ends a stream. Pure."""

from __future__ import annotations

from google.protobuf import duration_pb2

from broadsheet.v1 import snapshot_service_pb2 as pb

# Reasons of Goodbye. Part of the API.
SHUTTING_DOWN = "SHUTTING_DOWN"
SUPERSEDED = "SUPERSEDED"
REMOVED = "REMOVED"
CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
CREDENTIAL_WITHDRAWN = "CREDENTIAL_WITHDRAWN"
ANSWER_TIMEOUT = "ANSWER_TIMEOUT"
SILENT = "SILENT"


def goodbye(reason: str, *, reconnect_after_s: float) -> pb.Goodbye:
    """A Goodbye that asks the client to connect again after a while."""
    whole_s = int(reconnect_after_s)
    after = duration_pb2.Duration(seconds=whole_s, nanos=int((reconnect_after_s - whole_s) * 1e9))
    return pb.Goodbye(reason=reason, reconnect_after=after)
