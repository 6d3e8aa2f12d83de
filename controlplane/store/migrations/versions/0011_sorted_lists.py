"""Lists of models and adapters can be sorted by more than the name."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision: str | None = "0010"

_NAMES = {"models": ["id"], "adapters": ["model_id", "id"]}
_COLUMNS = ("served_name", "create_time_us", "update_time_us")


def upgrade() -> None:
    for table, names in _NAMES.items():
        for column in _COLUMNS:
            op.create_index(f"ix_{table}_{column}", table, [column, *names])


def downgrade() -> None:
    for table in _NAMES:
        for column in _COLUMNS:
            op.drop_index(f"ix_{table}_{column}", table)
