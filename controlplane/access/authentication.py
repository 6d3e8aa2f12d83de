"""Who asks: bearer tokens and client certificates to principals. What they may do then is
`auth.py`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc.aio

from controlplane import errors
from controlplane.access import permissions as auth
from controlplane.principal import ANONYMOUS, Principal
from protocol.transport.local_tokens import TOKEN_BYTES_MAX

_ALTERNATIVE_NAMES = "x509_subject_alternative_name"
"""gRPC's name for the subject alternative names of a client certificate that it has verified."""


class TokenSource(Protocol):
    """Knows some tokens."""

    async def principal_of(self, token: str) -> Principal | None:
        """Whose token this is; None: this source does not know it.

        Raises:
            errors.Unauthenticated: it is known, and no good (any more).
            errors.Unavailable: it cannot be checked at the moment.
        """


class Authenticator:
    """Finds out who asks, and whether they may."""

    def __init__(self, token_sources: Sequence[TokenSource], certificates: Mapping[str, Principal]) -> None:
        """
        Args:
            token_sources: Asked in this order.
            certificates: Principals by subject alternative name of their certificates.
        """
        self._token_sources = token_sources
        self._certificates = certificates

    async def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        """Who calls `method`, when they may.

        A token goes before a certificate: a proxy may have a certificate of its own and pass on its
        callers' tokens.

        Raises:
            errors.Unauthenticated: the credentials are missing, or no good.
            errors.PermissionDenied: their role may not call it.
            errors.Unavailable: they cannot be checked at the moment.
        """
        if not auth.needs_credentials(method):
            return ANONYMOUS
        token = _bearer_token(context)
        principal = self._of_certificate(context) if token is None else await self._of_token(token)
        auth.authorize(principal, method)
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
        errors.Unauthenticated: there is more than one, or something that is no bearer token.
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
