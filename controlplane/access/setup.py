"""Builds the authenticator from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from controlplane.access.authentication import Authenticator, TokenSource
from controlplane.access.generated_tokens import GeneratedTokens
from controlplane.access.oidc import OWN_NAMES, FileKeys, OidcSettings, OidcTokens, UrlKeys
from controlplane.access.permissions import Role
from controlplane.access.tokens_file import TokensFile
from controlplane.principal import Principal


class AccessSettings(Protocol):
    """The settings of authentication. `controlplane.settings` explains them."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def tokens_file(self) -> Path | None: ...
    @property
    def oidc_issuer(self) -> str: ...
    @property
    def oidc_audience(self) -> str: ...
    @property
    def oidc_jwks(self) -> str: ...
    @property
    def oidc_role_claim(self) -> str: ...
    @property
    def oidc_role_values(self) -> Mapping[str, Role]: ...
    @property
    def certificate_principals(self) -> Mapping[str, Principal]: ...


def configured(
    settings: AccessSettings, *, now: Callable[[], datetime]
) -> tuple[Authenticator, GeneratedTokens | None]:
    """The authenticator, and the generated tokens.

    Tokens are generated only if no other way to authenticate is configured.

    Raises:
        errors.SetupError: a file cannot be used.
    """
    sources: list[TokenSource] = []
    if settings.tokens_file is not None:
        sources.append(TokensFile(settings.tokens_file, now=now))
    if settings.oidc_issuer:
        oidc = OidcSettings(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            role_claim=settings.oidc_role_claim,
            roles=settings.oidc_role_values or OWN_NAMES,
        )
        jwks = settings.oidc_jwks
        sources.append(OidcTokens(oidc, UrlKeys(jwks) if "://" in jwks else FileKeys(Path(jwks))))
    certificates = settings.certificate_principals
    generated = GeneratedTokens(settings.data_dir) if not sources and not certificates else None
    if generated is not None:
        sources.append(generated.source())
    return Authenticator(sources, certificates), generated
