"""What an engine receives of a body."""

from __future__ import annotations

from dataplane.ingress.bodies.splice import Edit, splice


def sent(raw: bytes, *edits: Edit) -> bytes:
    """The body with these edits."""
    content = splice(raw, edits)
    return content if isinstance(content, bytes) else b"".join(content)
