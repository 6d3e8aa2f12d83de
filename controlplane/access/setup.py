"""Builds the authenticator from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from controlplane.access.authentication import Authenticator, TokenSource
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.access.generated_tokens import GeneratedTokens
from controlplane.access.identities import BoundIds, DataPlaneIdentities
from controlplane.access.oidc import OWN_NAMES, FileKeys, OidcSettings, OidcTokens, UrlKeys
from controlplane.access.permissions import Role
from controlplane.access.tokens_file import TokensFile
from controlplane.principal import Principal
from protocol.addresses import is_local


class AccessSettings(Protocol):
    """The settings of authentication. `controlplane.settings` explains them."""

    @property
    def listen(self) -> str: ...
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
    @property
    def allow_unbound_data_planes(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How callers are let in."""

    authenticator: Authenticator
    identities: DataPlaneIdentities
    enrolled: EnrolledDataPlanes
    """Has to run."""
    generated: GeneratedTokens | None
    """None: another way to authenticate is configured."""


def configured(settings: AccessSettings, enrolled: EnrolledDataPlanes, *, now: Callable[[], datetime]) -> Access:
    """Who is let in by these settings, or by enrolment.

    Raises:
        errors.SetupError: a file cannot be used.
    """
    sources: list[TokenSource] = []
    bound_ids: list[BoundIds] = []
    if settings.tokens_file is not None:
        tokens_file = TokensFile(settings.tokens_file, now=now)
        sources.append(tokens_file)
        bound_ids.append(tokens_file.bound_ids)
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
    bound_by_certificate = frozenset(holder.data_plane for holder in certificates.values() if holder.data_plane)
    bound_ids.append(lambda: bound_by_certificate)
    generated = GeneratedTokens(settings.data_dir) if not sources and not certificates else None
    is_alone = is_local(settings.listen)
    if generated is not None:
        sources.append(generated.source(is_local=is_alone))
    # First, because it tells by a prefix whether a token is for it, and a JWT takes long to refuse.
    sources.insert(0, enrolled)
    bound_ids.append(enrolled.bound_ids)
    return Access(
        authenticator=Authenticator(sources, certificates),
        identities=DataPlaneIdentities(bound_ids, allows_unbound=is_alone or settings.allow_unbound_data_planes),
        enrolled=enrolled,
        generated=generated,
    )
