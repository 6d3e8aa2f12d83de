"""Who calls: from bearer tokens and client certificates to principals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc.aio

from controlplane import errors
from controlplane.access import permissions
from controlplane.principal import ANONYMOUS, Principal
from protocol.transport.local_tokens import TOKEN_BYTES_MAX

_ALTERNATIVE_NAMES = "x509_subject_alternative_name"
"""The key of gRPC for the subject alternative names of a verified client certificate."""


class TokenSource(Protocol):
    """Knows the principals of some tokens."""

    async def principal_of(self, token: str) -> Principal | None:
        """The principal of a token; None: this source does not know it.

        Raises:
            errors.Unauthenticated: it is known, but invalid or expired.
            errors.Unavailable: it cannot be verified at the moment.
        """


class Authenticator:
    """Authenticates calls, and checks the permission of the caller."""

    def __init__(self, token_sources: Sequence[TokenSource], certificates: Mapping[str, Principal]) -> None:
        """
        Args:
            token_sources: Tried in this order.
            certificates: Principals by subject alternative name of a client certificate.
        """
        self._token_sources = token_sources
        self._certificates = certificates

    async def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        """The principal that calls `method`, if it may.

        A token has precedence over a certificate: a proxy may have its own certificate and forward
        the tokens of its callers.

        Raises:
            errors.Unauthenticated: the credentials are missing or invalid.
            errors.PermissionDenied: the role may not call it.
            errors.Unavailable: they cannot be verified at the moment.
        """
        if not permissions.needs_credentials(method):
            return ANONYMOUS
        token = _bearer_token(context)
        principal = self._of_certificate(context) if token is None else await self._of_token(token)
        permissions.authorize(principal, method)
        return principal

    async def _of_token(self, token: str) -> Principal:
        for source in self._token_sources:
            principal = await source.principal_of(token)
            if principal is not None:
                return principal
        raise errors.Unauthenticated(
            errors.Reason.TOKEN_INVALID, "the control plane does not know this token; is it for another one?"
        )

    def _of_certificate(self, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        names = [name.decode(errors="replace") for name in context.auth_context().get(_ALTERNATIVE_NAMES, ())]
        for name in names:
            if name in self._certificates:
                return self._certificates[name]
        if names:
            raise errors.Unauthenticated(
                errors.Reason.CERTIFICATE_UNKNOWN,
                f"no role is given to a certificate for {', '.join(names)}, and the call carries no token",
                metadata={"names": ",".join(names)},
            )
        raise errors.Unauthenticated(
            errors.Reason.TOKEN_MISSING, "the call carries no token; send `authorization: Bearer TOKEN`"
        )


def _bearer_token(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """The token of a call; None: it has none.

    Raises:
        errors.Unauthenticated: there are several, or it is not a bearer token.
    """
    given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not given:
        return None
    scheme, _, token = str(given[0]).partition(" ")
    token = token.strip()
    if len(given) > 1 or scheme.lower() != "bearer" or not token or len(token) > TOKEN_BYTES_MAX:
        raise errors.Unauthenticated(
            errors.Reason.TOKEN_INVALID, "the authorization header is not `Bearer TOKEN`, or there is more than one"
        )
    return token
