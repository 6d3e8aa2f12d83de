"""Revocations of API keys, in the order in which they were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision: str | None = "0015"


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key_uid", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_revocations")),
        sa.UniqueConstraint("key_uid", name=op.f("uq_revocations_key_uid")),
    )
    # A control plane of the release before, on the same database, leaves this column as it is. Keys
    # that it revokes have no sequence: data planes learn of them with snapshots only.
    op.add_column(
        "catalog", sa.Column("revocations_sequence", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column(
        "data_planes", sa.Column("revocations_sequence", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.execute(
        "INSERT INTO revocations (sequence, key_uid, name, catalog_revision, create_time_us) "
        "SELECT row_number() OVER (ORDER BY revoke_time_us, id), uid, 'apiKeys/' || id, catalog_revision, "
        "revoke_time_us FROM api_keys WHERE revoke_time_us IS NOT NULL"
    )
    op.execute("UPDATE catalog SET revocations_sequence = (SELECT count(*) FROM revocations)")


def downgrade() -> None:
    op.drop_column("data_planes", "revocations_sequence")
    op.drop_column("catalog", "revocations_sequence")
    op.drop_table("revocations")
