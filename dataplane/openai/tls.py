"""A certificate of an HTTP server, which is reloaded when its files are replaced."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from protocol.transport.tls_files import TlsFiles, TlsFilesError

RELOAD_INTERVAL_S = 2.0
"""How often the files are checked for changes."""

_log = structlog.get_logger("dataplane.openai.tls")


class ServerTls:
    """The certificate of an ingress replica or an engine replica."""

    def __init__(self, cert: Path, key: Path) -> None:
        """
        Args:
            cert: PEM file with the certificate chain.
            key: PEM file with its key.

        Raises:
            TlsFilesError: They cannot be used.
        """
        self._cert = cert
        self._key = key
        self._files = TlsFiles(cert, key)
        self._files.read()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For the server. A reload affects new handshakes; connections keep their certificate."""
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(cert, key)

    async def keep_current(self, interval_s: float = RELOAD_INTERVAL_S) -> None:
        """Reload the files whenever they were replaced. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                if self._files.changed() is not None:
                    # `changed` has checked the files in a separate context. A failure half-way
                    # would leave this one without a key.
                    self.context.load_cert_chain(self._cert, self._key)
                    _log.info("certificate_reloaded", cert=str(self._cert))
            except (TlsFilesError, OSError) as error:
                _log.error("certificate_not_reloaded", error=str(error))
