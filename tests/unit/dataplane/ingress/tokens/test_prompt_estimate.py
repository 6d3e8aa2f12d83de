"""Prompts whose tokens are not reported are estimated by their bytes."""

from __future__ import annotations

import base64
import json
import time

import pytest

from dataplane.ingress.tokens.prompt_estimate import audio_tokens, json_tokens

IMAGE = base64.b64encode(bytes(range(256)) * 4000).decode()


def test_text_counts_a_token_for_four_bytes() -> None:
    assert json_tokens(b'{"prompt":"' + b"word " * 800 + b'"}') == 4013 // 4


@pytest.mark.parametrize("url", [f"data:image/png;base64,{IMAGE}", IMAGE, IMAGE.replace("/", "\\/")])
def test_images_and_sounds_in_a_body_do_not_count_as_text(url: str) -> None:
    body = json.dumps({"messages": [{"content": [{"text": "what is this?"}, {"url": "@"}]}]}).replace("@", url).encode()
    assert json_tokens(body) < 30


def test_a_sound_counts_by_its_size() -> None:
    assert audio_tokens(b"x" * 160_000) == 1000
    assert audio_tokens(b"x") == 1


@pytest.mark.parametrize("body", [b'"' + b"a" * 32_000_000, b'"a' * 16_000_000, (b'"' + b"a" * 255) * 100_000])
def test_an_estimate_takes_little_time_for_any_body(body: bytes) -> None:
    begun = time.thread_time()
    json_tokens(body)
    assert time.thread_time() - begun < 0.1
