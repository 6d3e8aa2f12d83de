"""Makes the handler of Sync streams, for tests that are not about access."""

from __future__ import annotations

from controlplane.catalog.domain import Identity
from controlplane.metrics.metrics import Metrics
from controlplane.principal import Principal
from controlplane.push.chunks import ChunkCache
from controlplane.push.entry_source import EntrySource
from controlplane.push.fan_out import FanOut
from controlplane.push.head_signing import HeadSigner
from controlplane.push.reported_names import CatalogNames
from controlplane.push.revocation_batches import RevocationBatches
from controlplane.push.stream import Identify
from controlplane.push.subscription.timing import Limits
from controlplane.push.sync import WATCH_S, SyncHandler
from controlplane.store.store import Store


def everybody_is_known(caller: Principal, data_plane_id: str) -> Identity:
    """Anybody may speak for any data plane, as if with a credential of its own."""
    return Identity.BOUND


def sync_handler(
    fan_out: FanOut,
    store: Store,
    *,
    entries: EntrySource | None = None,
    identify: Identify = everybody_is_known,
    heads: HeadSigner | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    watch_s: float = WATCH_S,
) -> SyncHandler:
    """The handler of the streams of `fan_out`, which sends what `entries` or the store has."""
    chunks = ChunkCache(entries if entries is not None else store)
    names = CatalogNames(store.reported_names)
    revocations = RevocationBatches(
        store.revocations,
        store_uid=fan_out.head.position.store_uid,
        signer=lambda: heads.signer if heads is not None else None,
    )
    return SyncHandler(
        fan_out,
        chunks,
        names,
        revocations,
        identify=identify,
        heads=heads,
        limits=limits,
        metrics=metrics,
        watch_s=watch_s,
    )
