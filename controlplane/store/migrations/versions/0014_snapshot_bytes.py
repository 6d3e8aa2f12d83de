"""The bytes of snapshots. The first change of the catalog after this counts them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision: str | None = "0013"


def upgrade() -> None:
    # A control plane of the release before, on the same database, leaves the columns as they are.
    # The revision tells that they are out of date.
    op.add_column("catalog", sa.Column("entry_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column(
        "catalog", sa.Column("entry_bytes_revision", sa.BigInteger(), nullable=False, server_default=sa.text("-1"))
    )
    op.add_column("catalog_revisions", sa.Column("entry_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("catalog_revisions", "entry_bytes")
    op.drop_column("catalog", "entry_bytes_revision")
    op.drop_column("catalog", "entry_bytes")
