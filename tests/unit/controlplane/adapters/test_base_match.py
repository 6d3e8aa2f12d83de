from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from controlplane import errors
from controlplane.adapters.lora_weights import check_tensors
from protocol.adapters.safetensors_header import Tensor
from tests.adapter_directories import BASE_SHAPES, lora_shapes
from tests.unit.controlplane.adapters.described import BASE, config, refused, tensors


def test_shapes_of_another_base_are_a_mismatch_that_names_it() -> None:
    shapes = lora_shapes(modules={"self_attn.q_proj": (32, 32)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, r"q_proj is \[16, 16\].*for \[32, 32\].*'another-base'"):
        check_tensors(config(base_model_name_or_path="another-base"), tensors(shapes), BASE)


def test_more_layers_than_the_base_has_are_a_mismatch() -> None:
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "layers.2"):
        check_tensors(config(), tensors(lora_shapes(layers=3)), BASE)


def test_modules_that_the_base_lacks_are_a_mismatch() -> None:
    shapes = lora_shapes(modules={"attention.query_key_value": (16, 16)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "has no model.layers.0.attention.query_key_value"):
        check_tensors(config(), tensors(shapes), BASE)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "none of its modules"):
        check_tensors(config(), tensors(shapes), COMPOSITE)


def module(path: str, rows: int, columns: int) -> dict[str, tuple[int, int]]:
    """The matrices of one more module."""
    path = f"base_model.model.{path}"
    return {f"{path}.lora_A.weight": (4, columns), f"{path}.lora_B.weight": (rows, 4)}


@pytest.mark.parametrize(
    "path",
    [
        "score",
        "mlp.down_proj",
        "model.layers.0.self_attn",
        "model.layers.0.self_attn.qkv_proj",
        "model.layers.0.lm_head",
        "model.layers.¹.self_attn.q_proj",
        "model.layers.00.self_attn.q_proj",
    ],
)
def test_one_module_that_the_base_lacks_is_a_mismatch(path: str) -> None:
    shapes = {**lora_shapes(), **module(path, 16, 16)}
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, f"the base model has no {path}"):
        check_tensors(config(), tensors(shapes), BASE)
    check_tensors(config(), tensors({**lora_shapes(), **module("model.layers.0.mlp.experts.0.w1", 8, 8)}), BASE)


def test_a_module_without_a_matrix_is_a_mismatch() -> None:
    base = BASE | tensors({"model.layers.0.input_layernorm.weight": (16,)}, "BF16")
    shapes = {**lora_shapes(), **module("model.layers.0.input_layernorm", 16, 16)}
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "input_layernorm has no matrix"):
        check_tensors(config(), tensors(shapes), base)


def test_output_embeddings_that_are_not_stored_are_those_of_the_input() -> None:
    check_tensors(config(), tensors({**lora_shapes(), **module("lm_head", 32, 16)}), BASE)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, r"lm_head is \[32, 16\].*for \[32, 8\]"):
        check_tensors(config(), tensors({**lora_shapes(), **module("lm_head", 32, 8)}), BASE)


def test_an_unknown_base_is_not_compared() -> None:
    check_tensors(config(), tensors(lora_shapes(modules={"self_attn.q_proj": (32, 32)}, layers=9)), None)


COMPOSITE = BASE | tensors({"vision_tower.blocks.0.attn.qkv.weight": (48, 16)}, "BF16")
"""A base of several parts."""


def renamed(begin: str, shapes: Mapping[str, Sequence[int]] = BASE_SHAPES, old: str = "model.") -> dict[str, Tensor]:
    """Tensors whose names begin otherwise."""
    return tensors({name.replace(old, begin, 1): shape for name, shape in shapes.items()})


def adapter_for(begin: str) -> dict[str, Tensor]:
    return renamed(f"base_model.model.{begin}", lora_shapes(), "base_model.model.model.")


def test_layers_of_a_base_of_several_parts_are_found_under_another_prefix() -> None:
    check_tensors(config(), tensors(lora_shapes(prefix="language_model.")), COMPOSITE)
    shapes = lora_shapes(prefix="language_model.", modules={"self_attn.q_proj": (32, 32)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        check_tensors(config(), tensors(shapes), COMPOSITE)


@pytest.mark.parametrize(
    "begin", ["language_model.model.", "model.language_model.", "x.", "model.model.", "base.model."]
)
def test_a_prefix_that_the_engine_would_not_find_is_a_mismatch(begin: str) -> None:
    with refused(
        errors.Reason.ADAPTER_BASE_MISMATCH, rf"has no {begin}layers.0.self_attn.q_proj.* begin with 'model.'"
    ):
        check_tensors(config(), adapter_for(begin), BASE)


@pytest.mark.parametrize(
    ("own", "begin"),
    [("", ""), ("", "model."), ("", "transformer."), ("model.", ""), ("decoder.", "model.decoder."), ("", "bert.")],
)
def test_the_name_of_the_outermost_module_may_be_left_out(own: str, begin: str) -> None:
    check_tensors(config(), adapter_for(begin), renamed(own))


@pytest.mark.parametrize(("own", "begin"), [("model.", ""), ("model.decoder.", "decoder."), ("transformer.", "")])
def test_a_base_that_generates_text_keeps_the_name_of_its_outermost_module(own: str, begin: str) -> None:
    check_tensors(config(), adapter_for(begin), renamed(own))
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, f"has no {begin}layers.0"):
        check_tensors(config(), adapter_for(begin), renamed(own), generates=True)
    check_tensors(config(), adapter_for(own), renamed(begin), generates=True)  # as for GPT-2


def embedding(path: str) -> dict[str, Tensor]:
    shapes = {f"{path}.lora_embedding_A": (4, 32), f"{path}.lora_embedding_B": (16, 4)}
    return tensors({**lora_shapes(), **{f"base_model.model.{name}": shape for name, shape in shapes.items()}})


def test_modules_outside_of_the_layers_may_lack_the_outermost_name_too() -> None:
    gpt2 = tensors({"wte.weight": (32, 16), "h.0.attn.c_proj.weight": (16, 16)})
    shapes = {"base_model.model.transformer.h.0.attn.c_proj": (16, 16)}
    pairs = {
        f"{name}.lora_{side}.weight": (4, 16) if side == "A" else (16, 4) for name in shapes for side in ("A", "B")
    }
    more = {"base_model.model.transformer.wte.lora_embedding_A": (4, 32)}
    more |= {"base_model.model.transformer.wte.lora_embedding_B": (16, 4)}
    for generates in (True, False):
        check_tensors(config(), tensors({**pairs, **more}), gpt2, generates=generates)
    check_tensors(config(), embedding("embed_tokens"), BASE)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "has no embed_tokens"):
        check_tensors(config(), embedding("embed_tokens"), BASE, generates=True)


def test_the_engine_renames_the_text_part_of_some_architectures() -> None:
    adapter = adapter_for("model.language_model.")
    check_tensors(config(), adapter, BASE, frozenset({"Qwen3_5ForCausalLM"}))
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        check_tensors(config(), adapter, BASE, frozenset({"LlamaForCausalLM"}))


@pytest.mark.parametrize(
    "begin", ["_orig_mod.model.", "model._orig_mod.", "module.model.", "_fsdp_wrapped_module.model.", "base_model.x."]
)
@pytest.mark.parametrize("base", [None, BASE, COMPOSITE])
def test_names_that_a_training_wrapper_made_are_refused(begin: str, base: Mapping[str, Tensor] | None) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "left by a wrapper"):
        check_tensors(config(), adapter_for(begin), base)


def test_a_quantised_base_is_compared_by_module_only() -> None:
    base = {name.replace(".weight", ".qweight"): Tensor("I32", (2, 16)) for name in BASE_SHAPES}
    check_tensors(config(), tensors(lora_shapes()), base)
    packed = {name: Tensor("U8", (128, 1)) for name in BASE_SHAPES}
    check_tensors(config(), tensors(lora_shapes()), packed)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        check_tensors(config(), tensors(lora_shapes(layers=3)), base)


def test_a_transposed_base_is_compared_the_other_way_round() -> None:
    shapes = lora_shapes(modules={"mlp.c_fc": (64, 16)})
    base = tensors({f"model.layers.{layer}.mlp.c_fc.weight": (16, 64) for layer in range(2)})
    check_tensors(config(fan_in_fan_out=True), tensors(shapes), base)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        check_tensors(config(), tensors(shapes), base)


def test_embeddings_are_compared_as_vocabulary_by_hidden() -> None:
    path = "base_model.model.model.embed_tokens"
    shapes = {
        f"{path}.lora_embedding_A": (4, 32),
        f"{path}.lora_embedding_B": (16, 4),
        f"{path}.base_layer.weight": (32, 16),
    }
    summary = check_tensors(config(), tensors(shapes), BASE)
    assert summary.target_modules == ("embed_tokens",)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        check_tensors(config(), tensors({**shapes, f"{path}.lora_embedding_A": (4, 33)}), BASE)


def test_stacked_experts_are_not_compared() -> None:
    path = "base_model.model.model.layers.0.mlp.experts"
    shapes = {**lora_shapes(), f"{path}.lora_A.weight": (32, 16), f"{path}.lora_B.weight": (24, 32)}
    summary = check_tensors(config(target_parameters=["mlp.experts.down_proj"]), tensors(shapes), BASE)
    assert (summary.rank, summary.target_modules) == (4, ("experts", "q_proj", "v_proj"))
