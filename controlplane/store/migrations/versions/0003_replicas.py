"""What several control planes on one database tell each other of their data planes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    op.create_table(
        "replicas",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("heartbeat_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_replicas")),
    )
    op.create_table(
        "data_plane_reports",
        sa.Column("data_plane_id", sa.String(length=63), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("replica_uid", sa.String(length=64), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("settled_revision", sa.BigInteger(), nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("replaced_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("data_plane_id", name=op.f("pk_data_plane_reports")),
    )
    op.create_table(
        "resource_statuses",
        sa.Column("data_plane_id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("data_plane_id", "name", name=op.f("pk_resource_statuses")),
    )
    op.create_index("ix_resource_statuses_number", "resource_statuses", ["data_plane_id", "number"])


def downgrade() -> None:
    op.drop_table("resource_statuses")
    op.drop_table("data_plane_reports")
    op.drop_table("replicas")
