"""Whether a LoRA adapter can be served, judged by its configuration and its list of tensors. Pure.

What is refused here is what vLLM 0.32 refuses when it loads an adapter (vllm/lora/peft_helper.py,
`validate_legal`, and vllm/lora/utils.py, `parse_fine_tuned_lora_name`), so that it is found at
registration and not by a user's request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane import errors
from controlplane.adapters.safetensors_header import Tensor
from protocol.validation import shorten

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_RANK_LIMIT = 65_536
"""Far above every real rank: only keeps absurd numbers out of what is stored."""

_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Kinds of `init_lora_weights` that leave the base model's weights as they were."""

_UNSUPPORTED_FEATURES: Mapping[str, str] = {
    "modules_to_save": "whole modules of its own (modules_to_save)",
    "trainable_token_indices": "token embeddings of its own (trainable_token_indices)",
    "use_dora": "DoRA (use_dora)",
    "lora_bias": "LoRA bias (lora_bias)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer replication (layer_replication)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "use_qalora": "QALoRA (use_qalora)",
}

_WEIGHT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

_COMPARABLE_DTYPES = _WEIGHT_DTYPES | {"F8_E4M3", "F8_E5M2"}
"""Base weights in other forms are packed: their shapes are not those of the matrices."""

_MATRIX = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_EMBEDDING = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_embedding_(?P<side>[AB])")
_BASE_COPY = re.compile(r".*\.(embed_tokens|lm_head)\.base_layer\.weight")
"""A copy of base weights that PEFT stores when it trains embeddings; the engine passes over it."""

_LAYER = re.compile(r"(?:^|\.)(?P<stack>[A-Za-z_]\w*)\.(?P<layer>\d+)\.(?P<rest>.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """What adapter_config.json says, as far as it matters here."""

    rank: int
    """`r`."""
    pattern_ranks: frozenset[int]
    """The ranks that `rank_pattern` gives to some modules."""
    base: str
    """`base_model_name_or_path`: what it was trained on, as its author called it."""
    transposed: bool
    """`fan_in_fan_out`: the base stores its matrices as (in, out)."""
    packs_experts: bool
    """It trains `target_parameters`: the matrices of all experts of a layer are stacked into
    one."""

    @property
    def rank_max(self) -> int:
        return max(self.rank, *self.pattern_ranks) if self.pattern_ranks else self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two matrices of one module, as shapes: A is (rank, in), B is (out, rank)."""

    module: str
    """Path in the base model, such as `model.layers.0.self_attn.q_proj`."""
    a: tuple[int, int]
    b: tuple[int, int]
    embedding: bool

    @property
    def base_shape(self) -> tuple[int, int]:
        """The shape of the weight that it adds to: (out, in), for an embedding (vocabulary,
        hidden)."""
        return (self.a[1], self.b[0]) if self.embedding else (self.b[0], self.a[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a checked adapter is."""

    rank: int
    """The highest rank that the files state or hold."""
    target_modules: Sequence[str]
    """Last parts of its modules' paths, sorted."""


def refused(reason: errors.Reason, message: str) -> errors.InvalidArgument:
    """The error about an adapter's files."""
    return errors.InvalidArgument.of_field("source.uri", message, reason)


def parse_config(content: bytes) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        errors.InvalidArgument: it is damaged, or asks for something that the engine cannot do.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise _invalid_config("not JSON") from None
    if not isinstance(document, dict):
        raise _invalid_config("not a JSON object")
    if document.get("peft_type") != "LORA":
        raise _unsupported(f"got peft_type {shorten(document.get('peft_type'))}; only 'LORA' can be served")
    if "lora_alpha" not in document or "target_modules" not in document:
        raise _invalid_config("lora_alpha or target_modules is missing")
    _check_features(document)
    pattern = document.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise _invalid_config("rank_pattern is not an object")
    base = document.get("base_model_name_or_path")
    return LoraConfig(
        rank=_rank("r", document.get("r")),
        pattern_ranks=frozenset(_rank(f"rank_pattern[{shorten(key)}]", rank) for key, rank in pattern.items()),
        base=base if isinstance(base, str) else "",
        transposed=document.get("fan_in_fan_out") is True,
        packs_experts=bool(document.get("target_parameters")),
    )


def _check_features(document: Mapping[str, object]) -> None:
    used = [description for key, description in _UNSUPPORTED_FEATURES.items() if document.get(key)]
    if document.get("bias", "none") != "none":
        used.append(f"bias {shorten(document['bias'])}")
    init = document.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        used.append(f"weights that belong to a changed base model (init_lora_weights {shorten(init)})")
    if used:
        raise _unsupported(f"the engine cannot serve {', '.join(used)}")
    if isinstance(document["lora_alpha"], bool) or not isinstance(document["lora_alpha"], int | float):
        raise _invalid_config("lora_alpha is not a number")


def _rank(field: str, value: object) -> int:
    if type(value) is not int or not 0 < value <= _RANK_LIMIT:
        raise _invalid_config(f"{field} is {shorten(value)}; a rank is a positive whole number")
    return value


def summarised(config: LoraConfig, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor] | None) -> Summary:
    """Check the tensors against the configuration, and against the base model's where those are
    known.

    Args:
        config: What the configuration says.
        tensors: Those of adapter_model.safetensors.
        base: Those of the base model. None: not known.

    Raises:
        errors.InvalidArgument: something does not fit.
    """
    pairs = _pairs(tensors)
    ranks = {config.rank_max}
    for pair in pairs:
        if config.packs_experts and ".experts" in pair.module:
            continue
        rank = pair.a[0]
        if rank not in (config.rank, *config.pattern_ranks):
            raise _invalid_weights(f"{pair.module} has rank {rank}, which {CONFIG_FILE} does not state")
        ranks.add(rank)
    if base is not None:
        _check_base(config, pairs, base)
    return Summary(rank=max(ranks), target_modules=tuple(sorted({pair.module.rpartition(".")[2] for pair in pairs})))


def _pairs(tensors: Mapping[str, Tensor]) -> Sequence[Pair]:
    sides: dict[tuple[str, bool], dict[str, tuple[int, int]]] = {}
    for name, tensor in tensors.items():
        if _BASE_COPY.fullmatch(name):
            continue
        matrix = _MATRIX.fullmatch(name)
        match = matrix or _EMBEDDING.fullmatch(name)
        if match is None:
            raise _unsupported_weights(f"{shorten(name)} is no LoRA matrix")
        if tensor.dtype not in _WEIGHT_DTYPES:
            raise _unsupported_weights(f"{shorten(name)} has dtype {tensor.dtype}; F32, F16 or BF16 can be served")
        if len(tensor.shape) != 2:
            raise _unsupported_weights(f"{shorten(name)} has shape {list(tensor.shape)}; only matrices can be served")
        rows, columns = tensor.shape
        sides.setdefault((match["module"], matrix is None), {})[match["side"]] = (rows, columns)
    if not sides:
        raise _invalid_weights("there is no LoRA matrix in it")
    return [_pair(module, embedding, by_side) for (module, embedding), by_side in sides.items()]


def _pair(module: str, embedding: bool, by_side: Mapping[str, tuple[int, int]]) -> Pair:
    if len(by_side) != 2:
        raise _invalid_weights(f"{module} has a lora_{next(iter(by_side))} and not the other one")
    a, b = by_side["A"], by_side["B"]
    if a[0] != b[1] or a[0] == 0:
        raise _invalid_weights(f"{module} has lora_A of shape {list(a)} and lora_B of shape {list(b)}: no common rank")
    return Pair(module=module, a=a, b=b, embedding=embedding)


def _check_base(config: LoraConfig, pairs: Sequence[Pair], base: Mapping[str, Tensor]) -> None:
    index = _BaseIndex.of(base)
    trained_on = f"; the adapter was trained on {shorten(config.base)}" if config.base else ""
    found = False
    for pair in pairs:
        if "experts" in pair.module:
            # Checkpoints keep experts apart or stacked, as their authors like; only the engine
            # knows how they map.
            found = True
            continue
        shapes = index.shapes(pair.module)
        if shapes is None:
            if index.has_other_layers(pair.module):
                raise _mismatch(f"the base model has no {pair.module}{trained_on}")
            continue
        found = True
        expected = pair.base_shape
        if config.transposed and not pair.embedding:
            expected = (expected[1], expected[0])
        if shapes and expected not in shapes:
            got = " or ".join(str(list(shape)) for shape in sorted(shapes))
            raise _mismatch(
                f"{pair.module} is {got} in the base model, and the adapter is for {list(expected)}{trained_on}"
            )
    if not found:
        raise _mismatch(f"the base model has none of its modules, such as {pairs[0].module}{trained_on}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _BaseIndex:
    """The base model's matrices by module.

    A checkpoint may name the same layer `model.layers.0.x` that the library calls
    `model.language_model.layers.0.x`, so a module that is not there under its full path is looked
    up by its tail, from the layer's number on.
    """

    by_path: Mapping[str, frozenset[tuple[int, int]]]
    """Empty where the module is there but stored in a form whose shape says nothing, such as
    quantised."""
    by_tail: Mapping[str, frozenset[tuple[int, int]]]
    kinds: frozenset[str]
    """Tails without the layer's number."""

    @classmethod
    def of(cls, base: Mapping[str, Tensor]) -> _BaseIndex:
        by_path: dict[str, frozenset[tuple[int, int]]] = {}
        for name, tensor in base.items():
            module, _, parameter = name.rpartition(".")
            comparable = parameter == "weight" and len(tensor.shape) == 2 and tensor.dtype in _COMPARABLE_DTYPES
            shapes = frozenset({(tensor.shape[0], tensor.shape[1])}) if comparable else frozenset()
            by_path[module] = by_path.get(module, frozenset()) | shapes
        by_tail: dict[str, frozenset[tuple[int, int]]] = {}
        kinds = set()
        for module, shapes in by_path.items():
            match = _LAYER.search(module)
            if match is not None:
                tail = module[match.start("stack") :]
                # One module without a comparable shape makes the whole tail incomparable.
                known = by_tail.get(tail)
                by_tail[tail] = shapes if known is None else (known | shapes if known and shapes else frozenset())
                kinds.add(_kind(match))
        return cls(by_path=by_path, by_tail=by_tail, kinds=frozenset(kinds))

    def shapes(self, module: str) -> frozenset[tuple[int, int]] | None:
        """The shapes that the module may have; empty: any; None: it is not there."""
        if module in self.by_path:
            return self.by_path[module]
        match = _LAYER.search(module)
        return self.by_tail.get(module[match.start("stack") :]) if match is not None else None

    def has_other_layers(self, module: str) -> bool:
        """Whether other layers have a module of this kind."""
        match = _LAYER.search(module)
        return match is not None and _kind(match) in self.kinds


def _kind(match: re.Match[str]) -> str:
    return f"{match['stack']}.*.{match['rest']}"


def _invalid_config(message: str) -> errors.InvalidArgument:
    return refused(errors.Reason.ADAPTER_FILES_INVALID, f"{CONFIG_FILE}: {message}")


def _invalid_weights(message: str) -> errors.InvalidArgument:
    return refused(errors.Reason.ADAPTER_FILES_INVALID, f"{WEIGHTS_FILE}: {message}")


def _unsupported(message: str) -> errors.InvalidArgument:
    return refused(errors.Reason.ADAPTER_UNSUPPORTED, f"{CONFIG_FILE}: {message}")


def _unsupported_weights(message: str) -> errors.InvalidArgument:
    return refused(errors.Reason.ADAPTER_UNSUPPORTED, f"{WEIGHTS_FILE}: {message}")


def _mismatch(message: str) -> errors.InvalidArgument:
    return refused(errors.Reason.ADAPTER_BASE_MISMATCH, message)
