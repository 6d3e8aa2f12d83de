"""Checks the list of tensors of an adapter. Pure.

It refuses what vLLM 0.32 refuses when it loads an adapter (vllm/lora/utils.py,
`parse_fine_tuned_lora_name`), so that the registration fails and not a user's request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from controlplane.adapters.base_match import Pair, check_base
from controlplane.adapters.classification import BaseHead, check_head, check_output
from controlplane.adapters.lora_config import LoraConfig
from controlplane.adapters.module_patterns import compiled, work
from controlplane.adapters.refusals import CONFIG_FILE, invalid_weights, unsupported_weights
from protocol.adapters.safetensors_header import FLOAT_DTYPES, Tensor
from protocol.validation import shorten

_PATTERN_WORK_MAX = 5_000_000
"""Bounds the time for matching modules with patterns: some seconds, here and in the engine."""

_NAME_CHARS_MAX = 256
"""Those of real models have about 100. It bounds the time for matching, too."""

_PREFIX = "base_model.model."

_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])")
_WRAPPER = re.compile(
    r"^(?:module|base_model)\.|(?:^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)"
)
"""What DistributedDataParallel, PEFT, torch.compile, FSDP and activation checkpointing put into the
paths of the modules that they wrap. No model has modules of these names."""

_INPUTS = frozenset({"embed_tokens", "embed_in", "tok_embeddings", "word_embeddings", "wte"})
_OUTPUTS = frozenset({"lm_head", "embed_out"})

_BASE_COPY = re.compile(r".*\.(embed_tokens|lm_head)\.base_layer\.weight")
"""A copy of base weights that PEFT stores when it trains embeddings; the engine ignores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a verified adapter is."""

    rank: int
    """The highest rank that the files state or hold."""
    target_modules: Sequence[str]
    """Last parts of its modules' paths, sorted."""


def check_tensors(
    config: LoraConfig,
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor] | None,
    architectures: Set[str] = frozenset(),
    head: BaseHead | None = None,
    *,
    generates: bool = False,
) -> Summary:
    """Check the tensors against the configuration, and against the base model's if known.

    Args:
        config: What the configuration says.
        tensors: Tensors of adapter_model.safetensors, by name.
        base: Tensors of the base model, by name; None: not known.
        architectures: What the base's config.json calls it. Empty: not known.
        head: The base's head. None: nothing says that it is served for classification.
        generates: Whether the base is known to be served for generating text.

    Raises:
        errors.InvalidArgument: they do not fit.
    """
    pairs = _pairs(check_head(config.saved_modules, tensors, head))
    _check_ranks(config, pairs)
    if head is not None:
        check_output(pair.module for pair in pairs)
    if base is not None:
        check_base(config, pairs, base, architectures, generates=generates)
    return Summary(
        rank=config.rank_max, target_modules=tuple(sorted({pair.module.rpartition(".")[2] for pair in pairs}))
    )


def _check_ranks(config: LoraConfig, pairs: Sequence[Pair]) -> None:
    if work([*config.rank_pattern, *config.alpha_pattern]) * len(pairs) > _PATTERN_WORK_MAX:
        raise unsupported_weights(
            f"{len(pairs)} modules take too long to match with the {len(config.rank_pattern)} keys of rank_pattern "
            f"and the {len(config.alpha_pattern)} of alpha_pattern in {CONFIG_FILE}"
        )
    patterns = [(compiled(key), key, rank) for key, rank in config.rank_pattern.items()]
    for pair in pairs:
        if config.packs_experts and ".experts" in pair.module:
            continue
        stated = (
            (rank, f"rank_pattern[{shorten(key)}]") for pattern, key, rank in patterns if pattern.match(pair.module)
        )
        rank, where = next(stated, (config.rank, "r"))
        if pair.a[0] != rank:
            raise invalid_weights(f"{pair.module} has rank {pair.a[0]}, and {CONFIG_FILE} gives it {rank} ({where})")


def _pairs(tensors: Mapping[str, Tensor]) -> Sequence[Pair]:
    sides: dict[tuple[str, bool], dict[str, tuple[int, int]]] = {}
    for name, tensor in tensors.items():
        if _BASE_COPY.fullmatch(name):
            continue
        if len(name) > _NAME_CHARS_MAX:
            raise unsupported_weights(f"the name {shorten(name)} is longer than {_NAME_CHARS_MAX} characters")
        path = name.replace(_PREFIX, "") if name.startswith(_PREFIX) else name
        matrix = _MATRIX.fullmatch(path)
        match = matrix or _EMBEDDING.fullmatch(path)
        if match is None:
            raise unsupported_weights(f"{shorten(name)} is no LoRA matrix")
        if _WRAPPER.search(match["module"]):
            raise unsupported_weights(
                f"{shorten(name)} has a name left by a wrapper of the training, such as torch.compile, which "
                "the engine finds in no model: save the adapter from the unwrapped model"
            )
        _check_form(match["module"], embedding=matrix is None)
        if tensor.dtype not in FLOAT_DTYPES:
            raise unsupported_weights(f"{shorten(name)} has dtype {tensor.dtype}; F32, F16 or BF16 can be served")
        if len(tensor.shape) != 2:
            raise unsupported_weights(f"{shorten(name)} has shape {list(tensor.shape)}; only matrices can be served")
        rows, columns = tensor.shape
        by_side = sides.setdefault((match["module"], matrix is None), {})
        if match["side"] in by_side:
            raise invalid_weights(f"{match['module']} has a lora_{match['side']} twice, under different names")
        by_side[match["side"]] = (rows, columns)
    if not sides:
        raise invalid_weights("there is no LoRA matrix in it")
    return [_pair(module, embedding, by_side) for (module, embedding), by_side in sides.items()]


def _check_form(module: str, *, embedding: bool) -> None:
    last = module.rpartition(".")[2]
    if embedding and last in _OUTPUTS:
        raise unsupported_weights(
            f"{module} has the matrices of an embedding (lora_embedding_A), and is a linear layer"
        )
    if not embedding and last in _INPUTS:
        raise unsupported_weights(f"{module} has the matrices of a linear layer (lora_A.weight), and is an embedding")


def _pair(module: str, embedding: bool, by_side: Mapping[str, tuple[int, int]]) -> Pair:
    if len(by_side) != 2:
        raise invalid_weights(f"{module} has a lora_{next(iter(by_side))} and not the other one")
    a, b = by_side["A"], by_side["B"]
    if a[0] != b[1] or a[0] == 0:
        raise invalid_weights(f"{module} has lora_A of shape {list(a)} and lora_B of shape {list(b)}: no common rank")
    return Pair(module=module, a=a, b=b, embedding=embedding)
