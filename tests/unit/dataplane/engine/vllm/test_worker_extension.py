from __future__ import annotations

from types import SimpleNamespace

import pytest

from dataplane.engine.vllm.worker_extension import WorkerExtension

QKV = "model.layers.0.self_attn.qkv_proj"
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def worker(*loaded: str, pools: bool = False) -> WorkerExtension:
    """A worker with a packed module, experts and output embeddings, and adapter 1."""
    manager = SimpleNamespace(
        modules={QKV: None, "model.layers.0.mlp.experts": None, "lm_head": None},
        packed_modules={QKV: [Q, V]},
        is_pooling_model=pools,
        get_adapter={1: SimpleNamespace(loras=dict.fromkeys(loaded))}.get,
    )
    made = WorkerExtension()
    made.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    return made


@pytest.mark.parametrize(
    ("loaded", "pools", "found"),
    [
        ([QKV, "lm_head"], False, []),
        ([f"x.{QKV}"], False, [f"x.{QKV}"]),
        ([QKV.removeprefix("model.")], False, [QKV.removeprefix("model.")]),
        ([QKV.removeprefix("model.")], True, []),
        ([QKV, Q.removeprefix("model."), V.removeprefix("model.")], True, []),
        (["model.layers.0.mlp.experts", "model.layers.0.mlp.experts.base_layer"], False, []),
        ([], False, []),
    ],
)
def test_modules_that_no_layer_of_the_engine_has_are_found(loaded: list[str], pools: bool, found: list[str]) -> None:
    assert worker(*loaded, pools=pools).unmatched_modules(1) == found


def test_an_adapter_that_others_have_displaced_is_not_looked_at() -> None:
    assert worker("nowhere").unmatched_modules(2) == []
