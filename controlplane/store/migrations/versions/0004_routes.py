"""Routes, and what they refer to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("served_name", sa.String(length=256), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("revision_number", sa.BigInteger(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("update_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routes")),
    )
    op.create_table(
        "route_revisions",
        sa.Column("route_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["route_id"], ["routes.id"], name=op.f("fk_route_revisions_route_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("route_id", "number", name=op.f("pk_route_revisions")),
    )
    op.create_table(
        "route_references",
        sa.Column("route_id", sa.String(length=63), nullable=False),
        sa.Column("model_id", sa.String(length=63), nullable=False),
        sa.Column("adapter_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["route_id"], ["routes.id"], name=op.f("fk_route_references_route_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("route_id", "model_id", "adapter_id", "number", name=op.f("pk_route_references")),
    )
    op.create_index("ix_route_references_model_id", "route_references", ["model_id", "adapter_id"], unique=False)


def downgrade() -> None:
    op.drop_table("route_references")
    op.drop_table("route_revisions")
    op.drop_table("routes")
