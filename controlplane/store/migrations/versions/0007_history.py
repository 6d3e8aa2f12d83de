"""What differs between two snapshots is looked up by the revisions at which entries began, and
ended."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision: str | None = "0006"


def upgrade() -> None:
    op.create_index("ix_entries_from_revision", "entries", ["from_revision"])


def downgrade() -> None:
    op.drop_index("ix_entries_from_revision", "entries")
