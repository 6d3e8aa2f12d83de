"""Labels of data planes, and the policy and state of the fleet's rollout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision: str | None = "0014"


def upgrade() -> None:
    # A control plane of the release before, on the same database, leaves the column out.
    op.add_column("data_planes", sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "fleet_waves",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.LargeBinary(), nullable=False),
        sa.Column("rollout", sa.LargeBinary(), nullable=False),
        sa.Column("rollback_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_waves")),
        sa.CheckConstraint("id = 1", name=op.f("ck_fleet_waves_one_row")),
    )


def downgrade() -> None:
    op.drop_table("fleet_waves")
    op.drop_column("data_planes", "labels")
