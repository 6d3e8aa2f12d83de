"""The tables of what data planes have besides their records, and of the waves that they are in.

See `controlplane.store.schema`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, LargeBinary, String, Table

from controlplane.store.schema import metadata

data_plane_changes = Table(
    "data_plane_changes",
    metadata,
    # A ring for each data plane: change `number` is in the slot number % HISTORY_MAX. The slot is
    # first in the key: data planes change together, and their rows are then close to each other.
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("data_plane_id", String(63), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    # Serialised broadsheet.v1.Position. NULL: none.
    Column("serving", LargeBinary),
    Column("phase", Integer, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("rejected", LargeBinary),
)

data_plane_enrollments = Table(
    "data_plane_enrollments",
    metadata,
    Column("data_plane_id", String(63), primary_key=True),
    # catalog.enrollment_changes after the last change of this row.
    Column("number", BigInteger, nullable=False),
    # protocol.enrollment.token_hash and credential_hash. The secrets themselves are not stored.
    Column("token_hash", LargeBinary(32), nullable=False),
    Column("token_expire_time_us", BigInteger, nullable=False),
    # NULL: the token is not spent.
    Column("token_spend_time_us", BigInteger),
    # NULL: it has no credential.
    Column("credential_hash", LargeBinary(32)),
    Column("enroll_time_us", BigInteger),
    Index("ix_data_plane_enrollments_number", "number"),
)

fleet_waves = Table(
    "fleet_waves",
    metadata,
    # One row, once a policy was set. Changes of it take the lock on the catalog.
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Rises with each change.
    Column("version", BigInteger, nullable=False),
    # Serialised broadsheet.v1.FleetPolicy.
    Column("policy", LargeBinary, nullable=False),
    # controlplane.fleet.waves.rollout.to_bytes.
    Column("rollout", LargeBinary, nullable=False),
    # The last catalog revision that rolled the catalog back. 0: none did.
    Column("rollback_revision", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
