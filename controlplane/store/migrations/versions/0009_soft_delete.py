"""Deleted models and adapters stay until they are purged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision: str | None = "0008"

_TABLES = ("models", "adapters")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("delete_time_us", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("purge_time_us", sa.BigInteger(), nullable=True))
        op.create_index(f"ix_{table}_purge_time_us", table, ["purge_time_us"])


def downgrade() -> None:
    # An older release would serve what is deleted: it goes for good.
    op.execute("DELETE FROM adapters WHERE delete_time_us IS NOT NULL")
    op.execute("DELETE FROM models WHERE delete_time_us IS NOT NULL")
    for table in _TABLES:
        op.drop_index(f"ix_{table}_purge_time_us", table)
        op.drop_column(table, "purge_time_us")
        op.drop_column(table, "delete_time_us")
