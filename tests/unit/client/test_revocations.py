"""Which data planes refuse a revoked key."""

from __future__ import annotations

from broadsheet._requests.revocations import refuses
from broadsheet.types import DataPlane, Position, RevokeApiKeyResponse

REVOKED = RevokeApiKeyResponse(catalog_revision=9, revocations_sequence=3)


def serving(revision: int, store_uid: str = "store") -> DataPlane:
    return DataPlane(serving=Position(store_uid=store_uid, revision=revision))


def test_a_data_plane_that_applies_the_revocation_refuses_the_key() -> None:
    assert refuses(DataPlane(revocations_sequence=3), REVOKED, "store")
    assert not refuses(DataPlane(revocations_sequence=2), REVOKED, "store")


def test_a_data_plane_that_serves_the_snapshot_refuses_the_key() -> None:
    assert refuses(serving(9), REVOKED, "store")
    assert not refuses(serving(8), REVOKED, "store")


def test_a_snapshot_of_another_store_says_nothing() -> None:
    assert not refuses(serving(99, "another"), REVOKED, "store")


def test_a_key_that_an_earlier_release_revoked_is_refused_with_the_snapshot_only() -> None:
    before = RevokeApiKeyResponse(catalog_revision=9)
    assert not refuses(DataPlane(), before, "store")
    assert refuses(serving(9), before, "store")
