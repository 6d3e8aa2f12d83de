"""How the ingress verifies engine replicas that speak TLS. The authorities are read again when
their file is replaced."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from dataplane.openai.tls import RELOAD_INTERVAL_S
from protocol.transport.tls_files import AuthoritiesFile, TlsFilesError

_log = structlog.get_logger("dataplane.ingress.engine_trust")


class EngineTrust:
    """The authorities and the name of the engine replicas' certificates."""

    def __init__(self, authorities: Path, server_name: str = "") -> None:
        """
        Args:
            authorities: PEM file.
            server_name: Name that every certificate has. Empty: the host of the replica's URL.

        Raises:
            TlsFilesError: The file cannot be used.
        """
        self._file = AuthoritiesFile(authorities)
        self._path = authorities
        self.server_name = server_name or None
        """None: the host of the URL."""
        self.context = _context(self._file.read())
        """For new connections. It is replaced when the file is; connections that are open stay."""

    async def keep_current(self, interval_s: float = RELOAD_INTERVAL_S) -> None:
        """Reload the file whenever it was replaced. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                authorities = self._file.changed()
                if authorities is not None:
                    self.context = _context(authorities)
                    _log.info("authorities_reloaded", file=str(self._path))
            except TlsFilesError as error:
                _log.error("authorities_not_reloaded", error=str(error))


def _context(authorities: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authorities.decode("ascii"))
    return context
