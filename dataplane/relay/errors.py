"""Why the relay refuses a call. Pure."""

from __future__ import annotations


class RelayError(Exception):
    """The relay has refused a call and changed nothing."""


class WriterReplacedError(RelayError):
    """A newer process of the same name writes now. The caller should end."""


class NotOwnerError(RelayError):
    """The key belongs to another writer, or its topic to another role."""


class RelayFullError(RelayError):
    """A bound of the relay is reached. The call may be tried again later."""
