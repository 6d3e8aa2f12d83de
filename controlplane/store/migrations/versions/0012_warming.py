"""Until when models are kept warm."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision: str | None = "0011"


def upgrade() -> None:
    op.add_column("models", sa.Column("warm_until_us", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("models", "warm_until_us")
