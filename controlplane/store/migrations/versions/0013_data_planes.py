"""How sure the identity of each data plane is, and audit events of operations on data planes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision: str | None = "0012"


def upgrade() -> None:
    # Until a data plane connects again, nothing is known about its credential. A control plane of
    # the release before, on the same database, leaves the column out.
    op.add_column("data_planes", sa.Column("identity", sa.String(16), nullable=False, server_default="shared"))
    op.create_table(
        "audit_operations",
        sa.Column("catalog_revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.String(256), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("authentication", sa.String(64), nullable=False),
        sa.Column("address", sa.String(256), nullable=False),
        sa.Column("request_id", sa.String(256), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("catalog_revision", "number", name="pk_audit_operations"),
    )
    op.create_index("ix_audit_operations_create_time_us", "audit_operations", ["create_time_us"])


def downgrade() -> None:
    op.drop_table("audit_operations")
    op.drop_column("data_planes", "identity")
