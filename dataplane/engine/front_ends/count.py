"""How many front ends a replica gets. Pure."""

from __future__ import annotations

FRONT_ENDS_MAX = 16
"""Most that a model may ask for."""

_CORES_EACH = 4
"""Cores of the replica's share for each: one for itself, the others for the engine's processes, for
the ingress and for whatever else the node runs."""
_OF_A_SMALL_MODEL = 4
_OF_A_LARGE_MODEL = 2
_LARGE_PARAMETERS = 16e9
"""Parameters on each accelerator from which a model counts as large: a step of it takes so long
that two front ends keep up with the tokens."""


def front_end_count(*, asked: int | None, prefers_one: bool, cores: int, parameters: float) -> int:
    """How many processes answer for one engine, the replica's own included.

    Args:
        asked: What the model's `api_server_count` says; None: nothing.
        prefers_one: Whether more would cost the engine more than they give.
        cores: The cores of the node that fall to the replica.
        parameters: Of the model, on each accelerator, about.

    Raises:
        ValueError: `asked` is out of range.
    """
    if asked is not None:
        if not 1 <= asked <= FRONT_ENDS_MAX:
            raise ValueError(f"takes a whole number from 1 to {FRONT_ENDS_MAX}")
        return asked
    if prefers_one:
        return 1
    most = _OF_A_LARGE_MODEL if parameters >= _LARGE_PARAMETERS else _OF_A_SMALL_MODEL
    return max(1, min(most, cores // _CORES_EACH))
