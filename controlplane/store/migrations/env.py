"""Alembic's entry: runs migrations on the connection that the store hands over."""

from __future__ import annotations

from alembic import context

from controlplane.store.schema import metadata


def run_migrations() -> None:
    """All in the transaction that the connection is in: a migration that fails leaves nothing
    behind."""
    context.configure(
        connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
    )
    context.run_migrations()


run_migrations()
