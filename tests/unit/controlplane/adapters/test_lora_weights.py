from __future__ import annotations

import pytest

from controlplane import errors
from controlplane.adapters.lora_weights import Summary, check_tensors
from tests.adapter_directories import lora_shapes
from tests.unit.controlplane.adapters.described import BASE, config, refused, tensors


def test_a_plain_adapter_is_summarised() -> None:
    summary = check_tensors(config(), tensors(lora_shapes()), BASE)
    assert summary == Summary(rank=4, target_modules=("q_proj", "v_proj"))


def test_the_highest_stated_rank_is_used() -> None:
    with_pattern = config(4, rank_pattern={r"layers\.0\.self_attn\.q_proj": 32})
    assert with_pattern.rank_max == 32
    shapes = lora_shapes(rank=4)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = (32, 16), (16, 32)
    assert check_tensors(with_pattern, tensors(shapes), BASE).rank == 32


def test_a_rank_that_the_config_does_not_state_is_invalid() -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "rank 8"):
        check_tensors(config(4), tensors(lora_shapes(rank=8)), None)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ({"q_proj": 8}, r"q_proj has rank 4, and adapter_config.json gives it 8 \(rank_pattern\['q_proj'\]\)"),
        ({r"layers\.1\.self_attn\.v_proj": 2, "v_proj": 4}, r"layers.1.self_attn.v_proj has rank 4.* 2 \("),
        ({"_proj": 8, "model.layers.0.self_attn.q_proj": 8}, "layers.0.self_attn.q_proj has rank 4.* 8"),
        ({".*attn.q_proj": 8, "q_proj": 4}, "layers.0.self_attn.q_proj has rank 4.* 8"),
    ],
)
def test_a_rank_for_another_module_is_invalid(pattern: dict[str, int], words: str) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, words):
        check_tensors(config(4, rank_pattern=pattern), tensors(lora_shapes(rank=4)), None)


@pytest.mark.parametrize("key", ["_proj", "proj", "attn.q_proj", "q_proj.x", "other", "layers.0"])
def test_a_key_of_no_module_changes_nothing(key: str) -> None:
    check_tensors(config(4, rank_pattern={key: 8}), tensors(lora_shapes(rank=4)), None)


def test_patterns_that_would_take_too_long_together_are_refused() -> None:
    keys = {rf"x{number}\d+\.(a|b)": 4 for number in range(1000)}
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "take too long"):
        check_tensors(config(4, rank_pattern=keys), tensors(lora_shapes(layers=20)), None)


def test_a_module_is_described_once() -> None:
    shapes = lora_shapes()
    shapes |= {name.removeprefix("base_model.model."): shape for name, shape in shapes.items()}
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "twice"):
        check_tensors(config(), tensors(shapes), None)


def test_long_names_are_refused() -> None:
    shapes = lora_shapes(prefix="x" * 300 + ".")
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "longer than"):
        check_tensors(config(), tensors(shapes), None)


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
def test_a_tensor_that_is_not_a_lora_matrix_is_unsupported(name: str) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "no LoRA matrix"):
        check_tensors(config(), tensors({**lora_shapes(), name: (4, 16)}), None)


def test_matrices_come_in_pairs_of_one_rank() -> None:
    shapes = lora_shapes()
    del shapes["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "not the other"):
        check_tensors(config(), tensors(shapes), None)
    shapes["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] = (16, 5)
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "no common rank"):
        check_tensors(config(), tensors(shapes), None)


def test_an_adapter_without_matrices_is_invalid() -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "no LoRA matrix"):
        check_tensors(config(), {}, None)


def test_only_float_matrices_can_be_served() -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "I8"):
        check_tensors(config(), tensors(lora_shapes(), "I8"), None)
    name = "base_model.model.model.layers.0.conv.lora_A.weight"
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "only matrices"):
        check_tensors(config(), tensors({**lora_shapes(), name: (4, 16, 3)}), None)


def test_embeddings_and_linear_layers_have_matrices_of_their_own_forms() -> None:
    linear = {"model.embed_tokens.lora_A.weight": (4, 16), "model.embed_tokens.lora_B.weight": (32, 4)}
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "embed_tokens has the matrices of a linear layer"):
        check_tensors(config(), tensors(linear), BASE)
    embedding = {"lm_head.lora_embedding_A": (4, 32), "lm_head.lora_embedding_B": (16, 4)}
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "lm_head has the matrices of an embedding"):
        check_tensors(config(), tensors(embedding), BASE)
