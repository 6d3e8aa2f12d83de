"""Enrolments of data planes, and the history of their positions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision: str | None = "0016"


def upgrade() -> None:
    # A control plane of the release before, on the same database, leaves the columns as they are.
    op.add_column(
        "catalog", sa.Column("enrollment_changes", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.create_table(
        "data_plane_enrollments",
        sa.Column("data_plane_id", sa.String(63), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("token_expire_time_us", sa.BigInteger(), nullable=False),
        sa.Column("token_spend_time_us", sa.BigInteger(), nullable=True),
        sa.Column("credential_hash", sa.LargeBinary(32), nullable=True),
        sa.Column("enroll_time_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("data_plane_id", name="pk_data_plane_enrollments"),
    )
    op.create_index("ix_data_plane_enrollments_number", "data_plane_enrollments", ["number"])
    op.add_column(
        "data_planes", sa.Column("change_count", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.create_table(
        "data_plane_changes",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data_plane_id", sa.String(63), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("serving", sa.LargeBinary(), nullable=True),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("rejected", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("slot", "data_plane_id", name="pk_data_plane_changes"),
    )


def downgrade() -> None:
    op.drop_table("data_plane_changes")
    op.drop_column("data_planes", "change_count")
    op.drop_table("data_plane_enrollments")
    op.drop_column("catalog", "enrollment_changes")
