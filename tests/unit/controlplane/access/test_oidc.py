"""JWTs that are signed with real keys, and the principals that they give."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controlplane import errors
from controlplane.access import oidc
from controlplane.access.oidc import LEEWAY_S, OWN_NAMES, FileKeys, OidcSettings, OidcTokens, UrlKeys, parse_keys
from controlplane.access.permissions import Role
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from tests.stream.ingress_world import Recorder, serving

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ISSUER = "https://id.example.org"


def jwks() -> bytes:
    keys = [
        jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "rsa", "alg": "RS256"},
        jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key(), as_dict=True) | {"kid": "ec"},
    ]
    return json.dumps({"keys": keys}).encode()


def token(key: Any = RSA, *, alg: str = "RS256", kid: str = "rsa", **claims: Any) -> str:
    whole = {"iss": ISSUER, "aud": "broadsheet", "sub": "alice", "exp": int(time.time()) + 60, "roles": ["viewer"]}
    whole |= claims
    return jwt.encode({k: v for k, v in whole.items() if v is not None}, key, algorithm=alg, headers={"kid": kid})


def tokens(tmp_path: Path, *, role_claim: str = "roles", roles: Mapping[str, Role] = OWN_NAMES) -> OidcTokens:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks())
    settings = OidcSettings(issuer=ISSUER, audience="broadsheet", role_claim=role_claim, roles=roles)
    return OidcTokens(settings, FileKeys(file))


async def test_the_highest_role_of_a_valid_token_is_used(tmp_path: Path) -> None:
    source = tokens(tmp_path)
    for good in (token(roles=["viewer", "operator", "x"]), token(EC, alg="ES256", kid="ec", roles="operator")):
        principal = await source.principal_of(good)
        assert principal is not None
        assert (principal.name, principal.role, principal.authentication) == ("alice", Role.OPERATOR, "oidc")


async def test_roles_are_mapped_from_the_claim_that_the_settings_name(tmp_path: Path) -> None:
    source = tokens(tmp_path, role_claim="realm_access.roles", roles={"ml-admins": Role.ADMIN})
    principal = await source.principal_of(token(realm_access={"roles": ["ml-admins", "viewer"]}))
    assert principal is not None
    assert principal.role == Role.ADMIN
    with pytest.raises(errors.PermissionDenied):
        await source.principal_of(token(realm_access={"roles": ["viewer"]}))


async def test_a_claim_may_name_the_data_plane(tmp_path: Path) -> None:
    principal = await tokens(tmp_path).principal_of(token(roles=["data-plane"], data_plane="gpu-1"))
    assert principal is not None
    assert (principal.role, principal.data_plane) == (Role.DATA_PLANE, "gpu-1")


@pytest.mark.parametrize("claim", ["", "GPU 1", ["gpu-1"], 1, False])
async def test_a_claim_that_names_no_data_plane_makes_the_token_invalid(tmp_path: Path, claim: Any) -> None:
    with pytest.raises(errors.Unauthenticated, match="data_plane is no id of a data plane"):
        await tokens(tmp_path).principal_of(token(roles=["data-plane"], data_plane=claim))


async def test_tokens_of_other_issuers_are_left_to_other_sources(tmp_path: Path) -> None:
    source = tokens(tmp_path)
    assert await source.principal_of("no JWT at all") is None
    assert await source.principal_of(token(iss="https://elsewhere")) is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: token(exp=int(time.time()) - 120), errors.Reason.TOKEN_EXPIRED),
        (lambda: token(aud="another service"), errors.Reason.TOKEN_INVALID),
        (lambda: token(aud=None), errors.Reason.TOKEN_INVALID),
        (lambda: token(exp=None), errors.Reason.TOKEN_INVALID),
        (lambda: token(nbf=int(time.time()) + 120), errors.Reason.TOKEN_INVALID),
        (lambda: token(OTHER), errors.Reason.TOKEN_INVALID),
        (lambda: token(kid="unknown"), errors.Reason.TOKEN_INVALID),
        (lambda: token("x" * 64, alg="HS256"), errors.Reason.TOKEN_INVALID),
        (lambda: token(None, alg="none"), errors.Reason.TOKEN_INVALID),
        (lambda: token(RSA, alg="RS512"), errors.Reason.TOKEN_INVALID),
        (lambda: token()[:-4] + "AAAA", errors.Reason.TOKEN_INVALID),
    ],
)
async def test_an_invalid_token_is_refused(tmp_path: Path, bad: Any, reason: errors.Reason) -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        await tokens(tmp_path).principal_of(bad())
    assert caught.value.reason == reason


async def test_a_token_that_was_verified_before_still_expires(tmp_path: Path) -> None:
    now = time.time()
    (tmp_path / "jwks.json").write_bytes(jwks())
    settings = OidcSettings(issuer=ISSUER, audience="broadsheet", roles=OWN_NAMES)
    source = OidcTokens(settings, FileKeys(tmp_path / "jwks.json"), now_s=lambda: now)
    good = token(exp=int(now) + 60)
    first = await source.principal_of(good)
    now += 60 + LEEWAY_S - 1
    assert await source.principal_of(good) == first
    now += 2
    with pytest.raises(errors.Unauthenticated) as caught:
        await source.principal_of(good)
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_token_that_was_verified_before_ends_with_its_key(tmp_path: Path) -> None:
    source, good = tokens(tmp_path), token()
    assert await source.principal_of(good) is not None
    others = jwt.algorithms.RSAAlgorithm.to_jwk(OTHER.public_key(), as_dict=True) | {"kid": "rsa", "alg": "RS256"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [others]}))
    with pytest.raises(errors.Unauthenticated) as caught:
        await source.principal_of(good)
    assert caught.value.reason == "TOKEN_INVALID"


async def test_only_so_many_verified_tokens_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "VERIFIED_MAX", 3)
    source = tokens(tmp_path)
    for number in range(5):
        assert await source.principal_of(token(sub=str(number))) is not None
    assert len(source._verified) == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
def test_keys_without_a_public_one_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"JWKS|no key"):
        parse_keys(content)


async def test_keys_of_a_url_are_fetched_rarely_and_survive_failures() -> None:
    now = 0.0
    working = True

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 200 if working else 500, [JSON], jwks())

    provider = Recorder(answer)
    async with serving(provider) as url:
        keys = UrlKeys(url, clock=lambda: now)
        assert await keys.key("rsa") is not None
        for _ in range(50):
            assert await keys.key("made up") is None
        assert len(provider.requests) == 1
        now = 11.0
        assert await keys.key("made up") is None
        assert len(provider.requests) == 2
        now, working = 1000.0, False
        assert await keys.key("rsa") is not None
        assert len(provider.requests) == 3


async def test_a_provider_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 200, [JSON], jwks())

    async with serving(Recorder(answer)) as url:
        assert await UrlKeys(url, clock=lambda: 0.0).key("rsa") is not None


async def test_without_keys_tokens_cannot_be_verified() -> None:
    with pytest.raises(errors.Unavailable):
        await UrlKeys("http://127.0.0.1:1/", clock=lambda: 0.0).key("rsa")
