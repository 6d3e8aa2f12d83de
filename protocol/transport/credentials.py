"""What a client or a data plane shows the control plane, and how it makes sure of the control
plane.

Files are read when they are used, so a token or a certificate that is replaced on disk is used from
the next call or connection on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from protocol.addresses import is_local
from protocol.transport import local_tokens


class CredentialsError(ValueError):
    """A file with a token, certificate or key cannot be used. The message says which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A bearer token, and TLS. Everything may be left out: on the control plane's own machine
    nothing is needed."""

    token: str = field(default="", repr=False)
    """Bearer token."""
    token_file: Path | None = None
    """File with the bearer token; read again for each call. Without either: the token that a
    control plane on this machine has left for this user, if the endpoint is one of this machine."""
    tls_ca: Path | None = None
    """PEM file with the authorities that the control plane's certificate is checked by. Default:
    gRPC's own."""
    tls_cert: Path | None = None
    """PEM file with the certificate to show (mTLS)."""
    tls_key: Path | None = None
    """PEM file with its key."""
    insecure: bool = False
    """Talk to another machine without TLS: whoever listens on the way reads the token and
    everything else."""

    def __post_init__(self) -> None:
        if self.token and self.token_file is not None:
            raise CredentialsError("give a token or a token file, not both")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise CredentialsError("a client certificate and its key belong together: give both or neither")

    def uses_tls(self, endpoint: str) -> bool:
        """Whether a connection to `endpoint` is encrypted: it is asked for, or another machine is
        at the other end."""
        asked = self.tls_ca is not None or self.tls_cert is not None
        return asked or not (self.insecure or is_local(endpoint))

    def metadata(self, endpoint: str, kind: str = local_tokens.ADMIN) -> tuple[tuple[str, str], ...]:
        """What goes with each call to `endpoint`.

        Args:
            endpoint: `host:port`.
            kind: Which of the tokens that a control plane on this machine leaves is looked for.

        Raises:
            CredentialsError: the token file cannot be read.
        """
        token = self.token
        if self.token_file is not None:
            try:
                token = local_tokens.read(self.token_file)
            except OSError as error:
                raise CredentialsError(f"token file {self.token_file}: {error.strerror}") from error
            except ValueError as error:
                raise CredentialsError(str(error)) from error
        token = token or local_tokens.find(endpoint, kind) or ""
        return (("authorization", f"Bearer {token}"),) if token else ()

    def channel_credentials(self, endpoint: str) -> grpc.ChannelCredentials | None:
        """Those of a TLS channel to `endpoint`; None: it is to be without TLS.

        Raises:
            CredentialsError: a file cannot be read.
        """
        if not self.uses_tls(endpoint):
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_content(self.tls_ca),
            private_key=_content(self.tls_key),
            certificate_chain=_content(self.tls_cert),
        )


def _content(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{file}: {error.strerror}") from error
