"""Snapshots as raw entries, for tests of sending, accepting and storing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.accept import accept
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Message, Position, RawEntry, Snapshot
from protocol.catalog_digest import CatalogDigest, blob_digest

STORE = "store-a"
POLICY = Policy(allowed_sources=("file:///", "hf://"))


def model(model_id: str, *, uri: str = "file:///models/some", number: int = 1) -> snapshot_pb2.ModelEntry:
    """A vLLM model's entry."""
    entry = snapshot_pb2.ModelEntry(name=f"models/{model_id}", uid=f"uid-{model_id}", served_name=model_id)
    entry.revision.name = f"models/{model_id}/revisions/{number}"
    entry.revision.number = number
    entry.revision.spec.source.uri = uri
    return entry


def adapter(model_id: str, adapter_id: str, *, uri: str = "file:///adapters/some") -> snapshot_pb2.AdapterEntry:
    """An adapter's entry."""
    name = f"models/{model_id}/adapters/{adapter_id}"
    entry = snapshot_pb2.AdapterEntry(name=name, served_name=f"{model_id}:{adapter_id}", model=f"models/{model_id}")
    entry.revision.name = f"{name}/revisions/1"
    entry.revision.number = 1
    entry.revision.source.uri = uri
    return entry


def raw(message: Message, *, name: str = "", blob: bytes | None = None, type_: str = "") -> RawEntry:
    """A message as an entry. Parts of the entry can be overridden."""
    blob = message.SerializeToString(deterministic=True) if blob is None else blob
    return RawEntry(
        name=name or message.name, type=type_ or message.DESCRIPTOR.full_name, digest=blob_digest(blob), blob=blob
    )


def raws(*messages: Message) -> tuple[RawEntry, ...]:
    """Messages as entries, ordered by name."""
    return tuple(sorted(map(raw, messages), key=lambda entry: entry.name))


def digest_of(entries: Iterable[RawEntry]) -> bytes:
    """Root digest of these entries."""
    root = CatalogDigest()
    for entry in entries:
        root = root.added(entry.name, entry.type, entry.digest)
    return root.root()


def position(entries: Sequence[RawEntry], revision: int = 1, *, store_uid: str = STORE) -> Position:
    """The position of these entries at `revision`."""
    return Position(store_uid=store_uid, revision=revision, digest=digest_of(entries))


def entry_proto(entry: RawEntry) -> snapshot_pb2.Entry:
    """An entry as it is sent."""
    ref = snapshot_pb2.EntryRef(name=entry.name, type=entry.type, digest=entry.digest)
    return snapshot_pb2.Entry(ref=ref, blob=entry.blob)


CATALOG = raws(model("a"), adapter("a", "x"), adapter("a", "y"), model("b"), adapter("b", "x"))


def accepted(entries: tuple[RawEntry, ...], *, policy: Policy = POLICY, held: Snapshot | None = None) -> Snapshot:
    """The snapshot of these entries, at the revision after `held`; fails if it is rejected."""
    revision = held.position.revision + 1 if held else 1
    outcome = accept(position(entries, revision), entries, held=held, policy=policy)
    assert isinstance(outcome, Snapshot), outcome
    return outcome


def rejected(
    entries: tuple[RawEntry, ...], *, at: Position | None = None, held: Snapshot | None = None, policy: Policy = POLICY
) -> str:
    """The reason why these entries are rejected; fails if they are accepted."""
    outcome = accept(at or position(entries), entries, held=held, policy=policy)
    assert isinstance(outcome, Rejection), outcome
    assert outcome.message
    return outcome.reason
