"""Fills a store with a large catalog, without the registry, which takes milliseconds a resource."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from sqlalchemy import Table, insert, select, update

from broadsheet.v1 import adapter_pb2, model_pb2
from controlplane import principal
from controlplane.catalog import audit, domain, registration, snapshot, spec
from controlplane.store.resources import adapter_rows, model_rows
from controlplane.store.revisions import count_entry_bytes
from controlplane.store.schema import (
    adapter_revisions,
    adapters,
    audit_changes,
    audit_events,
    blobs,
    catalog,
    catalog_revisions,
    entries,
    model_revisions,
    models,
    served_names,
)
from controlplane.store.store import Store
from controlplane.store.times import to_us
from protocol.catalog_digest import CatalogDigest, blob_digest
from protocol.snapshot_limits import entry_bytes

Draft = registration.ModelDraft | registration.AdapterDraft

_DIGEST_PAGE = 1000

RESOURCES_PER_TRANSACTION = 5000
"""Large enough to be fast, small enough to show progress and to keep the rows in memory."""


def model_draft(model_id: str, model_spec: model_pb2.ModelSpec, *, description: str = "") -> registration.ModelDraft:
    """The draft that RegisterModel makes of a request with these fields."""
    return registration.ModelDraft(
        id=model_id,
        served_name=model_id,
        labels={},
        spec=spec.resolved(model_spec),
        card=model_pb2.ModelCard(description=description),
    )


def adapter_draft(
    model_id: str, adapter_id: str, source: model_pb2.Source, weights: adapter_pb2.AdapterWeights
) -> registration.AdapterDraft:
    """The draft that RegisterAdapter makes, for a model that is served under its id."""
    return registration.AdapterDraft(
        model_id=model_id,
        id=adapter_id,
        served_name=registration.default_adapter_served_name(model_id, adapter_id),
        labels={},
        source=source,
        weights=weights,
        card=adapter_pb2.AdapterCard(),
    )


async def fill(
    store: Store, drafts: Iterable[Draft], *, on_progress: Callable[[int], None] = lambda count: None
) -> int:
    """Register new models and adapters in this order, each as a catalog revision of its own.

    It writes the rows that registrations by an anonymous caller write, but checks nothing: ids and
    served names must be new, adapters must come after their models, and files must be as the drafts
    say. The new head is not announced.

    Args:
        store: The store. Nothing else may write to it meanwhile.
        drafts: What to register.
        on_progress: Called with the number of resources after each transaction.

    Returns:
        The newest revision.
    """
    remaining = iter(drafts)
    revision = (await store.head()).position.revision
    count = 0
    while batch := list(itertools.islice(remaining, RESOURCES_PER_TRANSACTION)):
        revision = await _fill(store, batch)
        count += len(batch)
        on_progress(count)
    return revision


async def _fill(store: Store, drafts: Iterable[Draft]) -> int:
    async with store._database.begin_write() as connection:
        head = (await connection.execute(select(catalog).with_for_update())).one()
        digest = CatalogDigest.from_bytes(head.digest_state, head.entry_count)
        revision: int = head.revision
        is_counted = head.entry_bytes_revision == revision
        size_bytes = head.entry_bytes if is_counted else await count_entry_bytes(connection)
        rows = defaultdict[Table, list[Mapping[str, object]]](list)
        for draft in drafts:
            revision += 1
            stamp = domain.Stamp(uid=store._new_uid(), now=store._clock(), catalog_revision=revision)
            resource, entry, of_resource = _registered(draft, stamp)
            digest = digest.added(entry.name, entry.type, entry.digest)
            size_bytes += entry_bytes(entry.name, entry.type, len(entry.blob))
            for table, values in itertools.chain(
                of_resource,
                _of_entry(entry, resource.served_name, revision),
                _of_commit(draft, entry, digest, stamp, size_bytes),
            ):
                rows[table].append(values)
        # In the order of first use, so that rows come after those that they refer to.
        for table, of_table in rows.items():
            await connection.execute(insert(table), of_table)
        await connection.execute(
            update(catalog).values(
                revision=revision,
                digest_state=digest.to_bytes(),
                entry_count=digest.entry_count,
                entry_bytes=size_bytes,
                entry_bytes_revision=revision,
            )
        )
    return revision


_Rows = Iterator[tuple[Table, Mapping[str, object]]]


def _registered(draft: Draft, stamp: domain.Stamp) -> tuple[domain.Model | domain.Adapter, domain.Entry, _Rows]:
    if isinstance(draft, registration.ModelDraft):
        model = registration.registered_model(None, draft, stamp)
        of_model = (
            (models, model_rows.model_values(model)),
            (model_revisions, model_rows.model_revision_values(model)),
        )
        return model, snapshot.model_entry(model), iter(of_model)
    adapter = registration.registered_adapter(None, draft, stamp)
    of_adapter = (
        (adapters, adapter_rows.adapter_values(adapter)),
        (adapter_revisions, adapter_rows.adapter_revision_values(adapter)),
    )
    return adapter, snapshot.adapter_entry(adapter), iter(of_adapter)


def _of_entry(entry: domain.Entry, served_name: str, revision: int) -> _Rows:
    yield served_names, {"served_name": served_name, "resource": entry.name}
    yield blobs, {"digest": entry.digest, "size_bytes": len(entry.blob), "blob": entry.blob}
    yield entries, {"name": entry.name, "type": entry.type, "digest": entry.digest, "from_revision": revision}


def _of_commit(draft: Draft, entry: domain.Entry, digest: CatalogDigest, stamp: domain.Stamp, size_bytes: int) -> _Rows:
    revision = stamp.catalog_revision
    commit = {
        "create_time_us": to_us(stamp.now),
        "method": "RegisterModel" if isinstance(draft, registration.ModelDraft) else "RegisterAdapter",
        "resource": entry.name,
    }
    root = digest.root()
    counted = {"root_digest": root, "entry_count": digest.entry_count, "entry_bytes": size_bytes}
    yield catalog_revisions, {**commit, "revision": revision, **counted}
    yield (
        audit_events,
        {
            **commit,
            "catalog_revision": revision,
            "principal": principal.ANONYMOUS.name,
            "role": principal.ANONYMOUS.role,
            "authentication": principal.ANONYMOUS.authentication,
            "address": principal.HERE.address,
            "request_id": principal.HERE.request_id,
            "change_count": 1,
        },
    )
    after = audit.EntryRef(type=entry.type, digest=entry.digest, size_bytes=len(entry.blob))
    appeared = audit.EntryChange(name=entry.name, before=None, after=after)
    for change in audit.kept_changes((appeared,), {entry.digest: entry.blob}):
        yield (
            audit_changes,
            {
                "catalog_revision": revision,
                "name": change.name,
                "change": change.SerializeToString(),
            },
        )


async def digest_of(store: Store) -> tuple[domain.Head, CatalogDigest]:
    """The newest snapshot, and the digest of what it holds, which must be the one that it says."""
    head = await store.head()
    digest, name = CatalogDigest(), ""
    while page := await store.read_entries(head.position.revision, after_name=name, limit=_DIGEST_PAGE):
        for entry in page:
            digest = digest.added(entry.name, entry.type, blob_digest(entry.blob))
        name = page[-1].name
    assert digest.root() == head.position.digest, "it is what the snapshot says"
    return head, digest
