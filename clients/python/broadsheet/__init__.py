"""Broadsheet: a registry of language models that pushes versioned snapshots to data planes.

    from broadsheet import Client

    with Client("127.0.0.1:8300") as client:
        client.register_model("smollm2", spec={"source": {"uri": "file:///models/smollm2"}})
        client.wait_until_serving("smollm2")

`Client` and `AsyncClient` talk to the control plane. Messages are in `broadsheet.types`, exceptions
in `broadsheet.errors`.

This package is what users import. It owns the clients and the command line, may import `protocol`,
and knows neither plane; the planes import only the generated `broadsheet.v1` from it.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broadsheet.aio import AsyncClient
    from broadsheet.client import Client
    from broadsheet.errors import BroadsheetError, ServingFailed
    from broadsheet.progress import ServingProgress
    from protocol.transport.credentials import Credentials, CredentialsError
    from protocol.validation import FieldViolation

try:
    __version__ = metadata.version("broadsheet")
except metadata.PackageNotFoundError:
    # A source tree that was never installed.
    __version__ = "0.0.0"

__all__ = [
    "AsyncClient",
    "BroadsheetError",
    "Client",
    "Credentials",
    "CredentialsError",
    "FieldViolation",
    "ServingFailed",
    "ServingProgress",
    "__version__",
]

# Imported on first use: pure modules of the planes import `broadsheet.v1`, and must not load gRPC.
_MODULE_OF = {
    "AsyncClient": "broadsheet.aio",
    "Client": "broadsheet.client",
    "BroadsheetError": "broadsheet.errors",
    "Credentials": "protocol.transport.credentials",
    "CredentialsError": "protocol.transport.credentials",
    "FieldViolation": "protocol.validation",
    "ServingFailed": "broadsheet.errors",
    "ServingProgress": "broadsheet.progress",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
