"""The kinds of database, and how each is opened and locked.

It owns what differs between SQLite and PostgreSQL. It may import SQLAlchemy and
`controlplane.errors`.
"""
