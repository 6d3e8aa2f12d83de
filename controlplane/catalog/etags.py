"""Etags of models and adapters (AIP-154). Pure."""

from __future__ import annotations

import hashlib

from controlplane import errors
from controlplane.catalog import domain
from protocol.validation import FieldViolation, shorten

_HASH_CHARACTERS = 16
"""64 bits: an etag guards against accidents between two readings of one resource, not against
forgery."""


def etag_of(resource: domain.Model | domain.Adapter) -> str:
    """A weak tag that differs whenever something differs that a writer states of the resource.

    A revision is immutable, so its number stands for spec, files and card. What a model's rollout
    has come to, and until when it is warmed, are not in it: neither gets lost when somebody writes
    who has not seen it.
    """
    parts = [resource.uid, str(resource.revision.number), resource.served_name, str(resource.delete_time or "")]
    if isinstance(resource, domain.Model):
        parts.append(resource.rollout_policy.SerializeToString(deterministic=True).hex())
    parts += [part for pair in sorted(resource.labels.items()) for part in pair]
    # Each part with its length, so that no two lists of parts run together into the same text.
    content = "".join(f"{len(part)}:{part}" for part in parts)
    return f'W/"{hashlib.sha256(content.encode()).hexdigest()[:_HASH_CHARACTERS]}"'


def check(given: str, resource: domain.Model | domain.Adapter | None, field: str = "etag") -> None:
    """Refuse a request whose etag is not that of `resource`. An empty one asks for no check.

    Args:
        given: The etag in the request.
        resource: The resource as it is. None: there is none.
        field: Path of the etag in the request.

    Raises:
        errors.Aborted: it is another.
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
