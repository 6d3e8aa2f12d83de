"""The audit log. Revisions that were made before it have no event."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("catalog_revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.String(length=256), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("authentication", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=256), nullable=False),
        sa.Column("request_id", sa.String(length=256), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.Column("change_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("catalog_revision", name=op.f("pk_audit_events")),
    )
    op.create_index(op.f("ix_audit_events_create_time_us"), "audit_events", ["create_time_us"], unique=False)
    op.create_index("ix_audit_events_principal", "audit_events", ["principal", "catalog_revision"], unique=False)
    op.create_index("ix_audit_events_resource", "audit_events", ["resource", "catalog_revision"], unique=False)
    op.create_table(
        "audit_changes",
        sa.Column("catalog_revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("change", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["catalog_revision"],
            ["audit_events.catalog_revision"],
            name=op.f("fk_audit_changes_catalog_revision"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("catalog_revision", "name", name=op.f("pk_audit_changes")),
    )
    op.create_index("ix_audit_changes_name", "audit_changes", ["name", "catalog_revision"], unique=False)


def downgrade() -> None:
    op.drop_table("audit_changes")
    op.drop_table("audit_events")
