"""Whether the matrices of an adapter fit those of a base model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from controlplane.adapters.lora_config import LoraConfig
from controlplane.adapters.refusals import base_mismatch
from protocol.adapters.safetensors_header import FLOAT_DTYPES, Tensor
from protocol.validation import shorten

_COMPARABLE_DTYPES = FLOAT_DTYPES | {"F8_E4M3", "F8_E5M2"}
"""Base weights of other dtypes are packed: their shapes are not those of the matrices."""

_OUTERMOST = frozenset({"model.", "transformer.", "bert.", "roberta.", "distilbert.", "electra.", "gpt_neox."})
"""Beginnings that a checkpoint or an adapter may lack, because it is of the model inside. For a
model that generates text the engine adds them to the checkpoint's names only, and otherwise it adds
or leaves them out for both."""

_OUTPUT = "lm_head"
_INPUTS = ("model.embed_tokens", "embed_tokens", "transformer.wte", "gpt_neox.embed_in")
"""Where a checkpoint that does not store the output embeddings has those of the input, which then
are the same."""

_TEXT_PART = "model.language_model."

_NAMED_AS_TEXT_PARTS = frozenset(
    {"Gemma4ForCausalLM", "MuseGlimmerForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"}
)
"""Architectures of text alone for which vLLM 0.32 reads `model.language_model.` as `model.`, in
checkpoints and adapters (`hf_to_vllm_mapper` of its classes)."""

_LAYER = re.compile(r"(?:^|\.)(?P<stack>[A-Za-z_]\w*)\.(?P<layer>\d+)\.(?P<rest>.+)$")


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
        """Shape of the weight that it adds to: (out, in); (vocabulary, hidden) for an embedding."""
        return (self.a[1], self.b[0]) if self.embedding else (self.b[0], self.a[1])


def check_base(
    config: LoraConfig, pairs: Sequence[Pair], base: Mapping[str, Tensor], architectures: Set[str], *, generates: bool
) -> None:
    """Check the shapes of matrices against the base model's.

    Args:
        config: Says how the base stores its matrices.
        pairs: Matrices of the adapter.
        base: Tensors of the base model, by name.
        architectures: What its config.json calls it. Empty: unknown.
        generates: Whether it is known to be served for generating text.

    Raises:
        errors.InvalidArgument: the adapter was trained for another base.
    """
    renames_text_part = not architectures.isdisjoint(_NAMED_AS_TEXT_PARTS)
    index = _BaseIndex.of(base, renames_text_part=renames_text_part, generates=generates)
    trained_on = f"; the adapter was trained on {shorten(config.base)}" if config.base else ""
    found = False
    for pair in pairs:
        if "experts" in pair.module:
            # A checkpoint keeps experts apart or stacked; only the engine knows how they map.
            found = True
            continue
        shapes = index.shapes(pair.module)
        if shapes is None:
            if not index.must_have(pair.module):
                continue
            begins = f": its layers begin with {' or '.join(map(repr, sorted(index.prefixes)[:4]))}"
            raise base_mismatch(f"the base model has no {pair.module}{begins}{trained_on}")
        found = True
        if pair.module in index.without_matrix:
            raise base_mismatch(f"{pair.module} has no matrix in the base model{trained_on}")
        expected = pair.base_shape
        if config.transposed and not pair.embedding:
            expected = (expected[1], expected[0])
        if shapes and expected not in shapes:
            got = " or ".join(str(list(shape)) for shape in sorted(shapes))
            raise base_mismatch(
                f"{pair.module} is {got} in the base model, and the adapter is for {list(expected)}{trained_on}"
            )
    if not found:
        raise base_mismatch(f"the base model has none of its modules, such as {pairs[0].module}{trained_on}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _BaseIndex:
    """The base model's matrices by module.

    A checkpoint may name a layer `model.layers.0.x` that the library calls
    `model.language_model.layers.0.x`. So a module whose full path is not found is looked up by its
    tail, from the layer's stack on, if the engine could rename it.
    """

    by_path: Mapping[str, frozenset[tuple[int, int]]]
    """Empty if the module is stored in a form whose shape cannot be compared, such as quantised."""
    without_matrix: frozenset[str]
    """Paths of modules whose weight is no matrix, such as norms."""
    by_tail: Mapping[str, frozenset[tuple[int, int]]]
    kinds: frozenset[str]
    """Tails without the number of the layer."""
    prefixes: frozenset[str]
    """What comes before the stacks of layers, such as `model.`."""
    renames_text_part: bool
    """Whether the engine reads `model.language_model.` as `model.`."""
    generates: bool
    """Whether it is known to be served for generating text."""

    @classmethod
    def of(cls, base: Mapping[str, Tensor], *, renames_text_part: bool, generates: bool) -> _BaseIndex:
        by_path: dict[str, frozenset[tuple[int, int]]] = {}
        without_matrix = set()
        for name, tensor in base.items():
            module, _, parameter = name.rpartition(".")
            is_weight = parameter == "weight" and tensor.dtype in _COMPARABLE_DTYPES
            comparable = is_weight and len(tensor.shape) == 2
            if is_weight and len(tensor.shape) < 2:
                without_matrix.add(module)
            shapes = frozenset({(tensor.shape[0], tensor.shape[1])}) if comparable else frozenset()
            by_path[module] = by_path.get(module, frozenset()) | shapes
        by_tail: dict[str, frozenset[tuple[int, int]]] = {}
        kinds = set()
        prefixes = set()
        for module, shapes in by_path.items():
            match = _LAYER.search(module)
            if match is not None:
                tail = module[match.start("stack") :]
                # A module without a comparable shape makes the whole tail incomparable.
                known = by_tail.get(tail)
                by_tail[tail] = shapes if known is None else (known | shapes if known and shapes else frozenset())
                kinds.add(_kind(match))
                prefixes.add(module[: match.start("stack")])
        return cls(
            by_path=by_path,
            without_matrix=frozenset(without_matrix),
            by_tail=by_tail,
            kinds=frozenset(kinds),
            prefixes=frozenset(prefixes),
            renames_text_part=renames_text_part,
            generates=generates,
        )

    def shapes(self, module: str) -> frozenset[tuple[int, int]] | None:
        """The shapes that the module may have; empty: any; None: the base has no such module."""
        if module in self.by_path:
            return self.by_path[module]
        if module == _OUTPUT:
            return next((self.by_path[name] for name in _INPUTS if name in self.by_path), frozenset())
        match = _LAYER.search(module)
        if match is None:
            return next((self.by_path[path] for path in self._spellings(module) if path in self.by_path), None)
        if not self._may_begin_with(module[: match.start("stack")]):
            return None
        return self.by_tail.get(module[match.start("stack") :])

    def _spellings(self, module: str) -> Iterator[str]:
        """Other paths at which the engine could find a module that is in no layer."""
        for outermost in _OUTERMOST:
            if module.startswith(outermost):
                yield module.removeprefix(outermost)
            elif not self.generates:
                yield outermost + module
        if self.renames_text_part:
            yield module.replace("model.", _TEXT_PART, 1)
            yield module.replace(_TEXT_PART, "model.", 1)

    def _may_begin_with(self, prefix: str) -> bool:
        """Whether the engine could find a path with this beginning among the base's layers."""
        if len(self.prefixes) > 1:
            # A base of several parts, such as one for pictures and text: only the engine knows how
            # it renames them.
            return True
        (own,) = self.prefixes or {prefix}
        if self.renames_text_part:
            own, prefix = own.replace(_TEXT_PART, "model."), prefix.replace(_TEXT_PART, "model.")
        if self.generates and len(prefix) < len(own):
            return False
        longer, shorter = sorted((own, prefix), key=len, reverse=True)
        inner = shorter not in _OUTERMOST and longer.endswith(shorter)
        return longer == shorter or (inner and longer.removesuffix(shorter) in _OUTERMOST)

    def must_have(self, module: str) -> bool:
        """Whether the base would have a module under its own name, if it had it.

        The parts of a base of several parts may be renamed in ways that only the engine knows,
        unless other layers have a module of this kind.
        """
        match = _LAYER.search(module)
        if len(self.prefixes) == 1:
            return True
        return match is not None and _kind(match) in self.kinds


def _kind(match: re.Match[str]) -> str:
    return f"{match['stack']}.*.{match['rest']}"
