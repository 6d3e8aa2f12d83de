"""Rollout policies of models, and their rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision: str | None = "0009"

_COLUMNS = ("rollout_policy", "rollout", "stable_revision")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("models", sa.Column(name, sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("models", name)
