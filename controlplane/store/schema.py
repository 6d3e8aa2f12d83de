"""The tables. The migrations create them; a test checks that both agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# Columns named *_us hold microseconds since 1970 in UTC, which both databases store exactly.

catalog = Table(
    "catalog",
    metadata,
    # One row, which every catalog change locks. Revisions are allocated here and nowhere else, so
    # they have no gaps.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("store_uid", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    # State of protocol.catalog_digest.CatalogDigest, 512 bytes.
    Column("digest_state", LargeBinary, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    # Bytes of the entries of the newest snapshot (protocol.snapshot_limits.entry_bytes), and the
    # revision at which they were counted. If that is not the newest, they are counted again.
    Column("entry_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("entry_bytes_revision", BigInteger, nullable=False, server_default=text("-1")),
    # Changes of data_plane_enrollments, by which control planes see that there was one.
    Column("enrollment_changes", BigInteger, nullable=False, server_default=text("0")),
    # The newest row of revocations. 0: there is none.
    Column("revocations_sequence", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="one_row"),
)

catalog_revisions = Table(
    "catalog_revisions",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("root_digest", LargeBinary, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("method", String(64), nullable=False),
    Column("resource", String(256), nullable=False),
    # Bytes of the entries. NULL: a release made it that did not count them.
    Column("entry_bytes", BigInteger),
)


def _event_columns() -> Sequence[Column[Any]]:
    """Who did what, and when: the columns that both tables of audit events have."""
    return (
        Column("create_time_us", BigInteger, nullable=False, index=True),
        Column("principal", String(256), nullable=False),
        Column("role", String(64), nullable=False),
        Column("authentication", String(64), nullable=False),
        Column("address", String(256), nullable=False),
        Column("request_id", String(256), nullable=False),
        Column("method", String(64), nullable=False),
        Column("resource", String(256), nullable=False),
    )


audit_events = Table(
    "audit_events",
    metadata,
    # One for each catalog revision. No reference to catalog_revisions: events outlive the snapshots
    # that they describe.
    Column("catalog_revision", BigInteger, primary_key=True, autoincrement=False),
    *_event_columns(),
    Column("change_count", BigInteger, nullable=False),
    Index("ix_audit_events_principal", "principal", "catalog_revision"),
    Index("ix_audit_events_resource", "resource", "catalog_revision"),
)

audit_changes = Table(
    "audit_changes",
    metadata,
    Column(
        "catalog_revision",
        BigInteger,
        ForeignKey("audit_events.catalog_revision", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    # Resource name.
    Column("name", String(256), primary_key=True),
    # Serialised broadsheet.v1.ResourceChange, without secrets.
    Column("change", LargeBinary, nullable=False),
    Index("ix_audit_changes_name", "name", "catalog_revision"),
)

audit_operations = Table(
    "audit_operations",
    metadata,
    # Operations that change no catalog, such as RemoveDataPlane: the newest revision at that time,
    # and how many operations there were after it.
    Column("catalog_revision", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    *_event_columns(),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("blob", LargeBinary, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    # The entry `name` had this content from `from_revision` until before `to_revision`. NULL: it
    # still has it.
    Column("name", String(256), primary_key=True),
    Column("from_revision", BigInteger, primary_key=True, autoincrement=False),
    Column("to_revision", BigInteger),
    Column("type", String(128), nullable=False),
    Column("digest", LargeBinary(32), ForeignKey("blobs.digest"), nullable=False),
    Index(
        "uq_entries_current",
        "name",
        unique=True,
        sqlite_where=text("to_revision IS NULL"),
        postgresql_where=text("to_revision IS NULL"),
    ),
    # For compaction, and for the check of references when a blob is deleted.
    Index("ix_entries_to_revision", "to_revision"),
    Index("ix_entries_digest", "digest"),
    Index("ix_entries_from_revision", "from_revision"),
)

models = Table(
    "models",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("uid", String(64), nullable=False),
    Column("served_name", String(256), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("revision_number", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
    # Serialised broadsheet.v1.RolloutPolicy and Rollout. NULL: REPLACE, and no rollout. During a
    # rollout, also the ModelRevision that serves the other requests.
    Column("rollout_policy", LargeBinary),
    Column("rollout", LargeBinary),
    Column("stable_revision", LargeBinary),
    # NULL: data planes start the model on the first request.
    Column("warm_until_us", BigInteger),
    # NULL: it is not deleted. Deleted rows hold no served name and no entry, and readers do not see
    # them from purge_time_us on.
    Column("delete_time_us", BigInteger),
    Column("purge_time_us", BigInteger),
    Index("ix_models_purge_time_us", "purge_time_us"),
    # For lists in this order.
    Index("ix_models_served_name", "served_name", "id"),
    Index("ix_models_create_time_us", "create_time_us", "id"),
    Index("ix_models_update_time_us", "update_time_us", "id"),
)

model_revisions = Table(
    "model_revisions",
    metadata,
    Column("model_id", String(63), ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # Serialised broadsheet.v1.ModelSpec and ModelCard.
    Column("spec", LargeBinary, nullable=False),
    Column("card", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
)

adapters = Table(
    "adapters",
    metadata,
    Column("model_id", String(63), ForeignKey("models.id"), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("uid", String(64), nullable=False),
    Column("served_name", String(256), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("revision_number", BigInteger, nullable=False),
    # Rank of the current revision: tells which adapters a model with a smaller lora.max_rank could
    # not serve.
    Column("rank", Integer, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
    # NULL: it is not deleted. Deleted rows hold no served name and no entry, and readers do not see
    # them from purge_time_us on.
    Column("delete_time_us", BigInteger),
    Column("purge_time_us", BigInteger),
    Index("ix_adapters_purge_time_us", "purge_time_us"),
    Index("ix_adapters_rank", "model_id", "rank"),
    # For lists in this order.
    Index("ix_adapters_served_name", "served_name", "model_id", "id"),
    Index("ix_adapters_create_time_us", "create_time_us", "model_id", "id"),
    Index("ix_adapters_update_time_us", "update_time_us", "model_id", "id"),
)

adapter_revisions = Table(
    "adapter_revisions",
    metadata,
    Column("model_id", String(63), primary_key=True),
    Column("adapter_id", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # Serialised broadsheet.v1.Source, AdapterWeights and AdapterCard.
    Column("source", LargeBinary, nullable=False),
    Column("weights", LargeBinary, nullable=False),
    Column("card", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["model_id", "adapter_id"],
        ["adapters.model_id", "adapters.id"],
        name="fk_adapter_revisions_adapter",
        ondelete="CASCADE",
    ),
)

served_names = Table(
    "served_names",
    metadata,
    # One flat namespace over models, adapters and routes.
    Column("served_name", String(256), primary_key=True),
    # Name of the resource that holds it.
    Column("resource", String(256), nullable=False, unique=True),
)

answered_requests = Table(
    "answered_requests",
    metadata,
    # Mutating requests that were carried out under a request_id, with their answers. Kept for
    # request_ids.RETENTION.
    Column("request_id", String(36), primary_key=True),
    Column("method", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Index("ix_answered_requests_create_time_us", "create_time_us"),
)

routes = Table(
    "routes",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("uid", String(64), nullable=False),
    Column("served_name", String(256), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("revision_number", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
)

route_revisions = Table(
    "route_revisions",
    metadata,
    Column("route_id", String(63), ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # Serialised broadsheet.v1.RouteSpec.
    Column("spec", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
)

route_references = Table(
    "route_references",
    metadata,
    # The targets of the current revision of a route. Empty adapter_id: the model itself. Number 0:
    # the revision that is served.
    Column("route_id", String(63), ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True),
    Column("model_id", String(63), primary_key=True),
    Column("adapter_id", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_route_references_model_id", "model_id", "adapter_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("uid", String(64), nullable=False),
    # protocol.api_keys.key_hash. The key itself is not stored.
    Column("key_hash", LargeBinary(32), nullable=False),
    Column("key_prefix", String(16), nullable=False),
    Column("display_name", String(256), nullable=False),
    Column("labels", JSON, nullable=False),
    # Serialised broadsheet.v1.ApiKeyLimits.
    Column("limits", LargeBinary, nullable=False),
    # NULL: it does not expire.
    Column("expire_time_us", BigInteger),
    Column("create_time_us", BigInteger, nullable=False),
    # NULL: it is not revoked.
    Column("revoke_time_us", BigInteger),
    Column("catalog_revision", BigInteger, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    # The API keys that were revoked, numbered from 1 without gaps. A row is kept as long as the
    # record of its key, which is for ever.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("key_uid", String(64), nullable=False, unique=True),
    # Resource name.
    Column("name", String(256), nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
)

data_planes = Table(
    "data_planes",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("instance_uid", String(64), nullable=False),
    # Serialised broadsheet.v1.Position. NULL: none.
    Column("serving", LargeBinary),
    Column("target", LargeBinary),
    Column("phase", Integer, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("message", String(4096), nullable=False),
    Column("http_address", String(256), nullable=False),
    Column("software_version", String(64), nullable=False),
    Column("connect_time_us", BigInteger, nullable=False),
    Column("last_seen_time_us", BigInteger, nullable=False),
    # controlplane.catalog.domain.Identity, by the credential of its latest stream.
    Column("identity", String(16), nullable=False, server_default="shared"),
    # Changes of its position so far. The newest are in data_plane_changes.
    Column("change_count", BigInteger, nullable=False, server_default=text("0")),
    Column("revocations_sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("labels", JSON, nullable=False, server_default="{}"),
)

# What control planes on one database share. On SQLite there is only one control plane, so these
# tables stay empty.

replicas = Table(
    "replicas",
    metadata,
    # A running control plane process. Times are by the clock of the database, as the clocks of the
    # machines differ.
    Column("uid", String(64), primary_key=True),
    Column("heartbeat_time_us", BigInteger, nullable=False),
    # The oldest catalog revision that it is sending to a data plane. NULL: none.
    Column("oldest_in_use", BigInteger),
)

data_plane_reports = Table(
    "data_plane_reports",
    metadata,
    Column("data_plane_id", String(63), primary_key=True),
    # Number of the data plane's newest stream. Reports of earlier streams are dropped.
    Column("session", BigInteger, nullable=False),
    # The control plane that has that stream.
    Column("replica_uid", String(64), nullable=False),
    Column("connected", Boolean, nullable=False),
    # Revision of the last head that it serves or has rejected. NULL: there is none.
    Column("settled_revision", BigInteger),
    # Number of changes of the report. A row of resource_statuses has the number of its own last
    # change.
    Column("number", BigInteger, nullable=False),
    # Number of the last change that replaced all statuses.
    Column("replaced_number", BigInteger, nullable=False),
)

resource_statuses = Table(
    "resource_statuses",
    metadata,
    Column("data_plane_id", String(63), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("number", BigInteger, nullable=False),
    # Serialised broadsheet.v1.ResourceStatus. NULL: it is not reported any more.
    Column("status", LargeBinary),
    Index("ix_resource_statuses_number", "data_plane_id", "number"),
)
