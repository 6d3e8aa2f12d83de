"""Broadsheet: a registry of language models that pushes versioned snapshots to data planes running
vLLM on Ray Serve.

    from broadsheet import Client

    with Client("127.0.0.1:8300") as client:
        client.register_model("smollm2", spec={"source": {"uri": "file:///models/smollm2"}})
        client.wait_until_serving("smollm2")

`Client` and `AsyncClient` talk to the control plane. Messages are in `broadsheet.types`, exceptions
in `broadsheet.errors`.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broadsheet.aio import AsyncClient
    from broadsheet.client import Client
    from broadsheet.errors import BroadsheetError, ServingFailed
    from broadsheet.progress import ServingProgress

try:
    __version__ = metadata.version("broadsheet")
except metadata.PackageNotFoundError:
    # Run from a source tree that was never installed.
    __version__ = "0.0.0"

__all__ = ["AsyncClient", "BroadsheetError", "Client", "ServingFailed", "ServingProgress", "__version__"]

# Imported when first asked for: the planes' pure cores import `protocol.names`, and must not load
# gRPC with it.
_MODULE_OF = {
    "AsyncClient": "broadsheet.aio",
    "Client": "broadsheet.client",
    "BroadsheetError": "broadsheet.errors",
    "ServingFailed": "broadsheet.errors",
    "ServingProgress": "broadsheet.progress",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
