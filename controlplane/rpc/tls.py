"""TLS of the gRPC server. Replaced files apply from the next handshake; connections stay open."""

from __future__ import annotations

from pathlib import Path

import grpc
import structlog

from controlplane import errors
from protocol.transport.tls_files import Certificate, TlsFiles, TlsFilesError

_log = structlog.get_logger("controlplane.rpc.tls")


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials for a secure port.

    Args:
        cert: PEM file with the certificate chain.
        key: PEM file with its key.
        client_ca: PEM file with the authorities of client certificates. None: clients need no
            certificate.

    Raises:
        errors.SetupError: A file cannot be used.
    """
    files = TlsFiles(cert, key, client_ca)
    try:
        first = files.read()
    except TlsFilesError as error:
        raise errors.SetupError(str(error)) from error

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """The new certificate, if any. gRPC calls this before each handshake, in its threads."""
        try:
            changed = files.changed()
        except TlsFilesError as error:
            _log.error("certificate_not_reloaded", error=str(error))
            return None
        if changed is None:
            return None
        _log.info("certificate_reloaded", cert=str(cert))
        return _configuration(changed)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        fetch,  # type: ignore[arg-type]  # the stubs leave out that None means no change
        require_client_authentication=client_ca is not None,
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], root_certificates=certificate.client_ca
    )
