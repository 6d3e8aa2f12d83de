"""A large catalog in a store, put there without the registry: that would take milliseconds per model."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, update

from controlplane import domain
from controlplane.store import Store
from controlplane.store_schema import blobs, catalog, catalog_revisions, entries
from dataplane.snapshot import RawEntry
from modelplane.catalog_digest import CatalogDigest


async def fill(store: Store, raws: Sequence[RawEntry]) -> domain.Head:
    """Make `raws` the whole content of an empty store, at the next revision. Returns the new head.

    They are in no table but those that snapshots are read from.
    """
    before = await store.head()
    assert before.entry_count == 0, "the store is empty"
    revision = before.position.revision + 1
    digest = CatalogDigest()
    for raw in raws:
        digest = digest.added(raw.name, raw.type, raw.digest)
    async with store._database.begin_write() as connection:
        await connection.execute(
            insert(blobs),
            [{"digest": raw.digest, "size_bytes": len(raw.blob), "blob": raw.blob} for raw in raws],
        )
        await connection.execute(
            insert(entries),
            [{"name": raw.name, "type": raw.type, "digest": raw.digest, "from_revision": revision} for raw in raws],
        )
        await connection.execute(
            insert(catalog_revisions).values(
                revision=revision,
                root_digest=digest.root(),
                entry_count=len(raws),
                create_time_us=0,
                method="",
                resource="",
            )
        )
        await connection.execute(
            update(catalog).values(revision=revision, digest_state=digest.to_bytes(), entry_count=len(raws))
        )
    position = domain.Position(store_uid=before.position.store_uid, revision=revision, digest=digest.root())
    return domain.Head(position=position, entry_count=len(raws))
