"""The names of adapters inside an engine. Pure."""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2

_DIGEST_HEX_CHARACTERS = 32
"""128 bits of the weights' SHA-256: no two sets of files share a name, and logs stay readable."""


def engine_adapter_name(entry: snapshot_pb2.AdapterEntry) -> str:
    """The engine-side name: `{served name}@{digest of the weights}`.

    It contains the digest because engines key their prefix cache by adapter name. New weights under
    an old name would be answered from the cache of the old weights.
    """
    return f"{entry.served_name}@{entry.revision.weights.digest.hex()[:_DIGEST_HEX_CHARACTERS]}"
