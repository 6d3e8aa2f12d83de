"""Reads adapter_config.json, and refuses what the engine cannot serve. Pure.

It refuses what vLLM 0.32 refuses when it loads an adapter (vllm/lora/peft_helper.py,
`validate_legal`), so that the registration fails and not a user's request. It also refuses scales
that make the engine compute NaN, which vLLM takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.adapters.classification import HEADS
from controlplane.adapters.module_patterns import compiled
from controlplane.adapters.refusals import invalid_config, unsupported_config
from protocol.adapters.lora_scale import check_scales
from protocol.validation import shorten

_RANK_LIMIT = 65_536
"""Far above every real rank: it keeps absurd numbers out of the store."""

_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Kinds of `init_lora_weights` that leave the base model's weights as they were."""

_UNSUPPORTED_FEATURES: Mapping[str, str] = {
    "trainable_token_indices": "token embeddings of its own (trainable_token_indices)",
    "use_dora": "DoRA (use_dora)",
    "lora_bias": "LoRA bias (lora_bias)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer replication (layer_replication)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "use_qalora": "QALoRA (use_qalora)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The part of adapter_config.json that is checked."""

    rank: int
    """`r`."""
    rank_pattern: Mapping[str, int]
    """The ranks of some modules. The first key that matches a module counts."""
    alpha_pattern: Mapping[str, float]
    """The scales of some modules, in the same way."""
    base: str
    """`base_model_name_or_path`: the base model that it was trained on, as its author names it."""
    transposed: bool
    """`fan_in_fan_out`: the base stores its matrices as (in, out)."""
    saved_modules: frozenset[str]
    """`modules_to_save`: classification heads that it brings along."""
    packs_experts: bool
    """It has `target_parameters`: the matrices of all experts of a layer are stacked into a single
    matrix."""

    @property
    def rank_max(self) -> int:
        """The highest rank that it states."""
        return max([self.rank, *self.rank_pattern.values()])


def parse_config(content: bytes) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        errors.InvalidArgument: it is damaged, or asks for something that the engine cannot do.
    """
    document = _json(content)
    if not isinstance(document, dict):
        raise invalid_config("not a JSON object")
    if document.get("peft_type") != "LORA":
        raise unsupported_config(f"got peft_type {shorten(document.get('peft_type'))}; only 'LORA' can be served")
    if "lora_alpha" not in document or "target_modules" not in document:
        raise invalid_config("lora_alpha or target_modules is missing")
    _check_features(document)
    _check_scales(document)
    rank_pattern = document.get("rank_pattern") or {}
    if not isinstance(rank_pattern, dict):
        raise invalid_config("rank_pattern is not an object")
    alpha_pattern = document.get("alpha_pattern") or {}
    for field, pattern in (("rank_pattern", rank_pattern), ("alpha_pattern", alpha_pattern)):
        _check_keys(field, pattern)
    base = document.get("base_model_name_or_path")
    return LoraConfig(
        rank=_rank("r", document.get("r")),
        rank_pattern={key: _rank(f"rank_pattern[{shorten(key)}]", rank) for key, rank in rank_pattern.items()},
        alpha_pattern=alpha_pattern,
        base=base if isinstance(base, str) else "",
        transposed=document.get("fan_in_fan_out") is True,
        saved_modules=_saved_modules(document.get("modules_to_save")),
        packs_experts=bool(document.get("target_parameters")),
    )


def _json(content: bytes) -> object:
    # Python reads JSON from bytes in UTF-16 and with a byte order mark too. The engine reads the
    # file as text in UTF-8, and does not.
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise invalid_config("not UTF-8") from None
    if text.startswith("\ufeff"):
        raise invalid_config("it begins with a byte order mark, which the engine does not read: save it without one")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise invalid_config("not JSON") from None


def _check_scales(document: Mapping[str, object]) -> None:
    try:
        check_scales(document)
    except ValueError as error:
        raise invalid_config(str(error)) from None


def _check_keys(field: str, pattern: Mapping[str, object]) -> None:
    for key in pattern:
        try:
            compiled(key)
        except ValueError as error:
            raise invalid_config(f"{field}[{shorten(key)}]: {error}") from None


def _check_features(document: Mapping[str, object]) -> None:
    used = [description for key, description in _UNSUPPORTED_FEATURES.items() if document.get(key)]
    if document.get("bias", "none") != "none":
        used.append(f"bias {shorten(document['bias'])}")
    init = document.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        used.append(f"weights that belong to a changed base model (init_lora_weights {shorten(init)})")
    if used:
        raise unsupported_config(f"the engine cannot serve {', '.join(used)}")


def _saved_modules(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise invalid_config(f"modules_to_save is {shorten(value)}; a list of modules is allowed")
    others = sorted(set(value) - HEADS)
    if others:
        raise unsupported_config(
            f"the engine cannot serve whole modules of its own (modules_to_save {shorten(others)}); only the "
            f"classification heads {' and '.join(sorted(HEADS))} can be served"
        )
    return frozenset(value)


def _rank(field: str, value: object) -> int:
    if type(value) is not int or not 0 < value <= _RANK_LIMIT:
        raise invalid_config(f"{field} is {shorten(value)}; a rank is a positive whole number")
    return value
