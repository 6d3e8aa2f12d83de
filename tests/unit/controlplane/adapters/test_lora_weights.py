"""Whether an adapter can be served, from what its files say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane import errors
from controlplane.adapters import lora_weights as lora
from controlplane.adapters.safetensors_header import Tensor
from tests.adapter_directories import BASE_SHAPES, adapter_config, lora_shapes


def tensors(shapes: Mapping[str, Sequence[int]], dtype: str = "F32") -> dict[str, Tensor]:
    return {name: Tensor(dtype, tuple(shape)) for name, shape in shapes.items()}


BASE = tensors(BASE_SHAPES, "BF16")


def config(rank: int = 4, **changes: Any) -> lora.LoraConfig:
    return lora.parse_config(json.dumps(adapter_config(rank, **changes)).encode())


@contextmanager
def refused(reason: errors.Reason, match: str | None = None) -> Iterator[None]:
    """Expects an error about source.uri with this reason."""
    with pytest.raises(errors.InvalidArgument, match=match) as caught:
        yield
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == ["source.uri"]


def test_a_plain_adapter_is_summarised() -> None:
    summary = lora.summarised(config(), tensors(lora_shapes()), BASE)
    assert summary == lora.Summary(rank=4, target_modules=("q_proj", "v_proj"))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}"]
)
def test_a_damaged_config_is_invalid(content: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        lora.parse_config(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 0},
        {"r": -1},
        {"r": 4.0},
        {"r": True},
        {"r": "4"},
        {"r": None},
        {"r": 10**9},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj": "8"}},
        {"rank_pattern": [8]},
        {"lora_alpha": "16"},
    ],
)
def test_ranks_are_positive_whole_numbers(changes: dict[str, object]) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "adapter_config.json"):
        lora.parse_config(json.dumps({**adapter_config(), **changes}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"use_dora": True},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"alora_invocation_tokens": [1]},
        {"layer_replication": [[0, 1]]},
        {"use_qalora": True},
        {"use_bdlora": {"x": 1}},
        {"trainable_token_indices": [5]},
    ],
)
def test_what_the_engine_refuses_is_refused_at_registration(changes: dict[str, Any]) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "adapter_config.json"):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"use_rslora": True},
        {"modules_to_save": []},
        {"bias": "none"},
        {"unknown": 1},
    ],
)
def test_what_the_engine_takes_is_taken(changes: dict[str, Any]) -> None:
    config(**changes)


def test_highest_rank_counts_wherever_it_is_stated() -> None:
    with_pattern = config(4, rank_pattern={"q_proj": 32})
    assert with_pattern.rank_max == 32
    shapes = lora_shapes(rank=4)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = (32, 16), (16, 32)
    assert lora.summarised(with_pattern, tensors(shapes), BASE).rank == 32


def test_a_rank_that_the_config_does_not_state_is_invalid() -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "rank 8"):
        lora.summarised(config(4), tensors(lora_shapes(rank=8)), None)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.bias",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
        "",
    ],
)
def test_a_tensor_that_is_no_lora_matrix_is_unsupported(name: str) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "no LoRA matrix"):
        lora.summarised(config(), tensors({**lora_shapes(), name: (4, 16)}), None)


def test_matrices_come_in_pairs_of_one_rank() -> None:
    shapes = lora_shapes()
    del shapes["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "not the other"):
        lora.summarised(config(), tensors(shapes), None)
    shapes["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] = (16, 5)
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "no common rank"):
        lora.summarised(config(), tensors(shapes), None)


def test_an_adapter_without_matrices_is_invalid() -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "no LoRA matrix"):
        lora.summarised(config(), {}, None)


def test_only_float_matrices_can_be_served() -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "I8"):
        lora.summarised(config(), tensors(lora_shapes(), "I8"), None)
    name = "base_model.model.model.layers.0.conv.lora_A.weight"
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "only matrices"):
        lora.summarised(config(), tensors({**lora_shapes(), name: (4, 16, 3)}), None)


def test_shapes_of_another_base_are_a_mismatch_that_names_it() -> None:
    shapes = lora_shapes(modules={"self_attn.q_proj": (32, 32)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, r"q_proj is \[16, 16\].*for \[32, 32\].*'another-base'"):
        lora.summarised(config(base_model_name_or_path="another-base"), tensors(shapes), BASE)


def test_more_layers_than_the_base_has_are_a_mismatch() -> None:
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "layers.2"):
        lora.summarised(config(), tensors(lora_shapes(layers=3)), BASE)


def test_modules_that_the_base_has_none_of_are_a_mismatch() -> None:
    shapes = lora_shapes(modules={"attention.query_key_value": (16, 16)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH, "none of its modules"):
        lora.summarised(config(), tensors(shapes), BASE)


def test_nothing_is_compared_with_a_base_that_is_not_known() -> None:
    lora.summarised(config(), tensors(lora_shapes(modules={"self_attn.q_proj": (32, 32)}, layers=9)), None)


def test_layers_are_found_under_another_prefix() -> None:
    lora.summarised(config(), tensors(lora_shapes(prefix="language_model.")), BASE)
    shapes = lora_shapes(prefix="language_model.", modules={"self_attn.q_proj": (32, 32)})
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        lora.summarised(config(), tensors(shapes), BASE)


def test_a_quantised_base_is_compared_by_module_only() -> None:
    base = {name.replace(".weight", ".qweight"): Tensor("I32", (2, 16)) for name in BASE_SHAPES}
    lora.summarised(config(), tensors(lora_shapes()), base)
    packed = {name: Tensor("U8", (128, 1)) for name in BASE_SHAPES}
    lora.summarised(config(), tensors(lora_shapes()), packed)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        lora.summarised(config(), tensors(lora_shapes(layers=3)), base)


def test_a_transposed_base_is_compared_the_other_way_round() -> None:
    shapes = lora_shapes(modules={"mlp.c_fc": (64, 16)})
    base = tensors({f"model.layers.{layer}.mlp.c_fc.weight": (16, 64) for layer in range(2)})
    lora.summarised(config(fan_in_fan_out=True), tensors(shapes), base)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        lora.summarised(config(), tensors(shapes), base)


def test_embeddings_are_compared_as_vocabulary_by_hidden() -> None:
    path = "base_model.model.model.embed_tokens"
    shapes = {
        f"{path}.lora_embedding_A": (4, 32),
        f"{path}.lora_embedding_B": (16, 4),
        f"{path}.base_layer.weight": (32, 16),
    }
    summary = lora.summarised(config(), tensors(shapes), BASE)
    assert summary.target_modules == ("embed_tokens",)
    with refused(errors.Reason.ADAPTER_BASE_MISMATCH):
        lora.summarised(config(), tensors({**shapes, f"{path}.lora_embedding_A": (4, 33)}), BASE)


def test_stacked_experts_are_the_engines_to_judge() -> None:
    path = "base_model.model.model.layers.0.mlp.experts"
    shapes = {**lora_shapes(), f"{path}.lora_A.weight": (32, 16), f"{path}.lora_B.weight": (24, 32)}
    summary = lora.summarised(config(target_parameters=["mlp.experts.down_proj"]), tensors(shapes), BASE)
    assert (summary.rank, summary.target_modules) == (4, ("experts", "q_proj", "v_proj"))
