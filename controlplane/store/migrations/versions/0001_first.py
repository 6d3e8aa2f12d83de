"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    _make_snapshots()
    _make_models()
    _make_adapters()
    _make_data_planes()


def _make_snapshots() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "catalog",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("store_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("digest_state", sa.LargeBinary(), nullable=False),
        sa.Column("entry_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog")),
        sa.CheckConstraint("id = 1", name=op.f("ck_catalog_one_row")),
    )
    op.create_table(
        "catalog_revisions",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root_digest", sa.LargeBinary(), nullable=False),
        sa.Column("entry_count", sa.BigInteger(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_catalog_revisions")),
    )
    op.create_table(
        "entries",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("from_revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("to_revision", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_entries_digest")),
        sa.PrimaryKeyConstraint("name", "from_revision", name=op.f("pk_entries")),
    )
    op.create_index(
        "uq_entries_current",
        "entries",
        ["name"],
        unique=True,
        sqlite_where=sa.text("to_revision IS NULL"),
        postgresql_where=sa.text("to_revision IS NULL"),
    )


def _make_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("served_name", sa.String(length=256), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("revision_number", sa.BigInteger(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("update_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_table(
        "served_names",
        sa.Column("served_name", sa.String(length=256), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("served_name", name=op.f("pk_served_names")),
        sa.UniqueConstraint("resource", name=op.f("uq_served_names_resource")),
    )
    op.create_table(
        "model_revisions",
        sa.Column("model_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("card", sa.LargeBinary(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_revisions_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "number", name=op.f("pk_model_revisions")),
    )


def _make_adapters() -> None:
    op.create_table(
        "adapters",
        sa.Column("model_id", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("served_name", sa.String(length=256), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("revision_number", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("update_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_adapters_model_id")),
        sa.PrimaryKeyConstraint("model_id", "id", name=op.f("pk_adapters")),
    )
    op.create_index("ix_adapters_rank", "adapters", ["model_id", "rank"], unique=False)
    op.create_table(
        "adapter_revisions",
        sa.Column("model_id", sa.String(length=63), nullable=False),
        sa.Column("adapter_id", sa.String(length=63), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.Column("card", sa.LargeBinary(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "adapter_id"],
            ["adapters.model_id", "adapters.id"],
            name="fk_adapter_revisions_adapter",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "adapter_id", "number", name=op.f("pk_adapter_revisions")),
    )


def _make_data_planes() -> None:
    op.create_table(
        "data_planes",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("instance_uid", sa.String(length=64), nullable=False),
        sa.Column("serving", sa.LargeBinary(), nullable=True),
        sa.Column("target", sa.LargeBinary(), nullable=True),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("message", sa.String(length=4096), nullable=False),
        sa.Column("http_address", sa.String(length=256), nullable=False),
        sa.Column("software_version", sa.String(length=64), nullable=False),
        sa.Column("connect_time_us", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_planes")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: an older release does not know what a newer one wrote")
