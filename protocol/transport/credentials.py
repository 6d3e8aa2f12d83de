"""How a client or data plane authenticates itself, and verifies the control plane.

Files are read when they are used: a replaced token counts from the next call on, a replaced
certificate from the next connection on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from protocol.addresses import is_local
from protocol.transport import local_tokens


class CredentialsError(ValueError):
    """Credentials contradict each other, or a file with one cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A bearer token and TLS files.

    On the machine of the control plane no argument is needed.
    """

    token: str = field(default="", repr=False)
    """Bearer token."""
    token_file: Path | None = None
    """File with the bearer token, read for each call. Without `token` and `token_file`: for an
    endpoint on this machine, the token that its control plane left for this user."""
    tls_ca: Path | None = None
    """PEM file with the authorities of the control plane's certificate. Default: those of gRPC."""
    tls_cert: Path | None = None
    """PEM file with the client certificate (mTLS)."""
    tls_key: Path | None = None
    """PEM file with its key."""
    insecure: bool = False
    """No TLS to another machine: the network can then read the token and everything else."""

    def __post_init__(self) -> None:
        if self.token and self.token_file is not None:
            raise CredentialsError("give a token or a token file, not both")
        if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise CredentialsError("the token has characters that no token has: expected printable ASCII, no spaces")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise CredentialsError("a client certificate and its key belong together: give both or neither")

    def uses_tls(self, endpoint: str) -> bool:
        """Whether a connection to `endpoint` uses TLS: on request, or if it leaves this machine."""
        asked = self.tls_ca is not None or self.tls_cert is not None
        return asked or not (self.insecure or is_local(endpoint))

    def metadata(self, endpoint: str, kind: str = local_tokens.ADMIN) -> tuple[tuple[str, str], ...]:
        """Metadata of each call to `endpoint`: the token, if there is one.

        Args:
            endpoint: `host:port`.
            kind: Which token to look for if the control plane is on this machine.

        Raises:
            CredentialsError: The token file cannot be read.
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
        """The gRPC credentials of a channel to `endpoint`. None: the channel is without TLS.

        Raises:
            CredentialsError: A file cannot be read.
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
