"""Which data planes refuse a revoked key, from what they report."""

from __future__ import annotations

from broadsheet.types import DataPlane, RevokeApiKeyResponse


def refuses(data_plane: DataPlane, revoked: RevokeApiKeyResponse, store_uid: str) -> bool:
    """Whether a data plane has reported that it refuses a key.

    It has applied the revocation, or it serves a snapshot that contains it. The latter is all that
    data planes of earlier releases can say.

    Args:
        data_plane: What it has reported.
        revoked: The answer to the revocation.
        store_uid: The store of the control plane. Revisions of another store mean nothing here.
    """
    if 0 < revoked.revocations_sequence <= data_plane.revocations_sequence:
        return True
    serving = data_plane.serving
    return serving.store_uid == store_uid and serving.revision >= revoked.catalog_revision
