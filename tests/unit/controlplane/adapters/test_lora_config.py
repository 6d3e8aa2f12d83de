from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane import errors
from controlplane.adapters.lora_config import parse_config
from tests.adapter_directories import adapter_config
from tests.unit.controlplane.adapters.described import config, refused


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}"]
)
def test_a_damaged_config_is_invalid(content: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        parse_config(content)


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
        parse_config(json.dumps({**adapter_config(), **changes}).encode())


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
def test_features_that_the_engine_refuses_are_refused(changes: dict[str, Any]) -> None:
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
def test_features_that_the_engine_supports_are_accepted(changes: dict[str, Any]) -> None:
    config(**changes)
