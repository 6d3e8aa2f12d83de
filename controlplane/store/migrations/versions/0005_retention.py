"""What compaction looks for: entries by their end and by their blob, and which snapshots other
processes still send."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    op.create_index("ix_entries_to_revision", "entries", ["to_revision"])
    op.create_index("ix_entries_digest", "entries", ["digest"])
    op.add_column("replicas", sa.Column("oldest_in_use", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("replicas", "oldest_in_use")
    op.drop_index("ix_entries_digest", "entries")
    op.drop_index("ix_entries_to_revision", "entries")
