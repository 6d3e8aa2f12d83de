"""Etags of models and adapters (AIP-154). Pure."""

from __future__ import annotations

import hashlib

from controlplane import errors
from controlplane.catalog import domain
from protocol.validation import FieldViolation, shorten

_HASH_CHARACTERS = 16
"""64 bits, which is enough against accidental collisions. Etags do not protect against forgery."""


def etag_of(resource: domain.Model | domain.Adapter) -> str:
    """A weak tag that changes with everything that a writer states about the resource.

    A revision is immutable, so its number stands for spec, files and card. The progress of a
    rollout and the time of warming are left out: a write does not overwrite them.
    """
    parts = [resource.uid, str(resource.revision.number), resource.served_name, str(resource.delete_time or "")]
    if isinstance(resource, domain.Model):
        parts.append(resource.rollout_policy.SerializeToString(deterministic=True).hex())
    parts += [part for pair in sorted(resource.labels.items()) for part in pair]
    # Each part has its length before it, so that different parts never make the same text.
    content = "".join(f"{len(part)}:{part}" for part in parts)
    return f'W/"{hashlib.sha256(content.encode()).hexdigest()[:_HASH_CHARACTERS]}"'


def check(given: str, resource: domain.Model | domain.Adapter | None, field: str = "etag") -> None:
    """Refuse a request whose etag is not the current etag of `resource`.

    Args:
        given: The etag in the request. Empty: no check.
        resource: The resource as it is now. None: it does not exist.
        field: Path of the etag in the request.

    Raises:
        errors.Aborted: The etags differ.
    """
    current = etag_of(resource) if resource is not None else ""
    if not given or given == current:
        return
    name = resource.name if resource is not None else "the resource"
    is_now = f"{name} has {current} by now" if resource is not None else f"{name} does not exist"
    raise errors.Aborted(
        errors.Reason.ETAG_MISMATCH,
        f"{field}: got {shorten(given)}, and {is_now}; read it again, and decide whether your change still holds",
        violations=(FieldViolation(field=field, description=f"got {shorten(given)}; {is_now}"),),
        metadata={"got": given, "current": current},
    )
