"""Whether the matrices of an adapter fit those of a base model. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.adapters.lora_config import LoraConfig
from controlplane.adapters.refusals import base_mismatch
from protocol.safetensors_header import Tensor
from protocol.validation import shorten

FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

_COMPARABLE_DTYPES = FLOAT_DTYPES | {"F8_E4M3", "F8_E5M2"}
"""Base weights of other dtypes are packed: their shapes are not those of the matrices."""

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


def check_base(config: LoraConfig, pairs: Sequence[Pair], base: Mapping[str, Tensor]) -> None:
    """Check the shapes of matrices against the base model's.

    Args:
        config: Says how the base stores its matrices.
        pairs: Matrices of the adapter.
        base: Tensors of the base model, by name.

    Raises:
        errors.InvalidArgument: the adapter was trained for another base.
    """
    index = _BaseIndex.of(base)
    trained_on = f"; the adapter was trained on {shorten(config.base)}" if config.base else ""
    found = False
    for pair in pairs:
        if "experts" in pair.module:
            # A checkpoint keeps experts apart or stacked; only the engine knows how they map.
            found = True
            continue
        shapes = index.shapes(pair.module)
        if shapes is None:
            if index.has_other_layers(pair.module):
                raise base_mismatch(f"the base model has no {pair.module}{trained_on}")
            continue
        found = True
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
    tail, from the layer's stack on.
    """

    by_path: Mapping[str, frozenset[tuple[int, int]]]
    """Empty if the module is stored in a form whose shape cannot be compared, such as quantised."""
    by_tail: Mapping[str, frozenset[tuple[int, int]]]
    kinds: frozenset[str]
    """Tails without the number of the layer."""

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
                # A module without a comparable shape makes the whole tail incomparable.
                known = by_tail.get(tail)
                by_tail[tail] = shapes if known is None else (known | shapes if known and shapes else frozenset())
                kinds.add(_kind(match))
        return cls(by_path=by_path, by_tail=by_tail, kinds=frozenset(kinds))

    def shapes(self, module: str) -> frozenset[tuple[int, int]] | None:
        """The shapes that the module may have; empty: any; None: the base has no such module."""
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
