"""How sure the identity of each data plane is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision: str | None = "0012"


def upgrade() -> None:
    # Until a data plane connects again, nothing is known about its credential. A control plane of
    # the release before, on the same database, leaves the column out.
    op.add_column("data_planes", sa.Column("identity", sa.String(16), nullable=False, server_default="shared"))


def downgrade() -> None:
    op.drop_column("data_planes", "identity")
