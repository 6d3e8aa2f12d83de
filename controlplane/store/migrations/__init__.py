"""Alembic migrations of the control plane's database, run to the newest when the store is
opened."""
