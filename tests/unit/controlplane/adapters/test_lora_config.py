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
        {"alpha_pattern": [16]},
        {"alpha_pattern": "q_proj"},
    ],
)
def test_ranks_are_positive_whole_numbers(changes: dict[str, object]) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "adapter_config.json"):
        parse_config(json.dumps({**adapter_config(), **changes}).encode())


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-8-sig", "byte order mark"), ("utf-16", "not UTF-8"), ("utf-16-le", "not JSON")]
)
def test_only_utf_8_without_a_byte_order_mark_is_read(encoding: str, words: str) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, words):
        parse_config(json.dumps(adapter_config()).encode(encoding))


@pytest.mark.parametrize("alpha", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e300", b"1" + b"0" * 400, b"131072"])
def test_scales_are_finite(alpha: bytes) -> None:
    content = json.dumps(adapter_config(lora_alpha="HERE")).encode()
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "lora_alpha is "):
        parse_config(content.replace(b'"HERE"', alpha))
    content = json.dumps(adapter_config(alpha_pattern={"q_proj": 16, "v_proj": "HERE"})).encode()
    with refused(errors.Reason.ADAPTER_FILES_INVALID, r"alpha_pattern\['v_proj'\] is "):
        parse_config(content.replace(b'"HERE"', alpha))


@pytest.mark.parametrize("alpha", ["16", None, True, [16]])
def test_scales_of_modules_are_numbers(alpha: object) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, r"alpha_pattern\['q_proj'\] is .* a number"):
        config(alpha_pattern={"q_proj": alpha})


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("key", ["q_proj(", "[z-a]", "[a--z]", "*", "a)|(b", "q\\", "(?i)q_proj", "x" * 300])
def test_a_key_that_is_no_pattern_is_invalid(field: str, key: str) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, field):
        parse_config(json.dumps({**adapter_config(), field: {"v_proj": 4, key: 4}}).encode())


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("key", ["(a+)+x", "a*a*a*x", "(a|b)(a|b)", "a{1,9}", "(|".ljust(66, "|") + ")", "a?a"])
def test_a_key_that_could_be_slow_to_match_is_invalid(field: str, key: str) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, field):
        parse_config(json.dumps({**adapter_config(), field: {key: 4}}).encode())


@pytest.mark.parametrize(
    "key",
    [
        "q_proj",
        "model.layers.0.self_attn.q_proj",
        r"layers\.0\.self_attn\.q_proj",
        r"^model\.layers\.\d+\.mlp\.up_proj$",
        r".*\.(q|v)_proj",
        r"layers\.(?:0|1|10)\.mlp\.up_proj",
        r"layers\.[0-9]\.q-proj",
    ],
)
def test_keys_as_people_write_them_are_taken(key: str) -> None:
    config(rank_pattern={key: 4}, alpha_pattern={key: -8.5})


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
