"""The scales that adapter_config.json gives to the matrices of an adapter. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.validation import shorten

LIMIT = 2**17
"""Scales in use are below 1,000. The engine multiplies matrices by them, so that one that is not
finite, or is absurdly large, makes it compute NaN for everybody who shares it."""


def check_scales(document: Mapping[str, object]) -> None:
    """Check `lora_alpha` and `alpha_pattern` of adapter_config.json.

    Raises:
        ValueError: a scale is not a finite number. The message names it.
    """
    _check("lora_alpha", document.get("lora_alpha"))
    pattern = document.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise ValueError(f"alpha_pattern is {shorten(pattern)}; an object of numbers is allowed")
    for key, alpha in pattern.items():
        _check(f"alpha_pattern[{shorten(key)}]", alpha)


def _check(name: str, alpha: object) -> None:
    # Comparisons with NaN are false.
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not -LIMIT < alpha < LIMIT:
        raise ValueError(f"{name} is {shorten(alpha)}; a number between -{LIMIT} and {LIMIT} is allowed")
