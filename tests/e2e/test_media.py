"""Sounds and pictures for real vLLM: tiny models, made here, tell which of them arrived."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.media import HIGH_HZ, LOW_HZ, QUESTION, about, data_url, picture, tone, wav
from tests.e2e.real_model import CAPITAL, ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
MAKE_S = 300.0
ENGINE_ARGS: Mapping[str, object] = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 26, "dtype": "float32"}
EARS, EYES = "org/ears", "org/eyes"
"""Served names that differ from the engines' own."""
LOW, HIGH = tone(LOW_HZ), tone(HIGH_HZ)
SILENCE = tone(0, amplitude=0)
RED, BLUE = picture("red"), picture("blue")


def make(recipe: str, directory: Path) -> Path:
    """Run the module that makes a model in a child process: this one loads no torch."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"tests.e2e.{recipe}", str(directory)]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MAKE_S)
    assert made.returncode == 0, made.stdout + made.stderr
    return directory


def serve(stack: Stack, model_id: str, source: Path, **fields: Any) -> Iterator[None]:
    """Register a model for as long as the context lasts: memory is shared with other tests."""
    spec = {"source": {"uri": source.as_uri()}, "engine": {"kind": "KIND_VLLM", "args": ENGINE_ARGS}}
    with stack.client() as client:
        client.register_model(model_id, spec=spec, **fields)
        client.wait_until_serving(model_id, timeout_s=30)
        yield
        client.delete_model(model_id)
        until(lambda: stack.engine_replicas(model_id) == [], 60, "the engine to end")


def error_of(error: openai.BadRequestError) -> tuple[object, object]:
    """Type and code of an error body in OpenAI's shape."""
    assert isinstance(error.body, dict)
    assert error.body.keys() >= {"message", "type", "param", "code"}
    return error.body["type"], error.body["code"]


@pytest.fixture(scope="class")
def ears(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    source = make("tiny_whisper", tmp_path_factory.mktemp("ears"))
    yield from serve(stack, "ears", source, served_name=EARS, card={"capabilities": ["transcriptions"]})


@pytest.mark.usefixtures("ears")
class TestSounds:
    """A model that writes "low tone" or "high tone", also in German, of two seconds at once."""

    def test_its_task_is_listed_before_it_runs(self, stack: Stack) -> None:
        listed = stack.openai().models.retrieve(EARS).to_dict()
        assert (listed["task"], listed["state"]) == ("transcribe", "IDLE")

    @pytest.mark.parametrize(
        ("language", "low", "high"), [("en", "low tone", "high tone"), ("de", "tiefer Ton", "hoher Ton")]
    )
    def test_sounds_are_told_apart(self, stack: Stack, language: str, low: str, high: str) -> None:
        for sound, text in ((LOW, low), (HIGH, high)):
            heard = stack.openai().audio.transcriptions.create(
                model=EARS, file=("sound.wav", wav(sound)), language=language
            )
            assert heard.text == text

    def test_a_translation_is_english(self, stack: Stack) -> None:
        with pytest.warns(DeprecationWarning, match="deprecated"):  # by the package; vLLM serves it
            heard = stack.openai().audio.translations.create(
                model=EARS, file=("sound.wav", wav(LOW)), extra_body={"language": "de"}
            )
        assert heard.text == "low tone"

    def test_another_sample_rate_is_converted(self, stack: Stack) -> None:
        rate_hz = 44_100
        file = wav(tone(HIGH_HZ, rate_hz=rate_hz), rate_hz=rate_hz)
        heard = stack.openai().audio.transcriptions.create(model=EARS, file=("sound.wav", file), language="en")
        assert heard.text == "high tone"

    def test_what_is_longer_than_it_hears_is_split(self, stack: Stack) -> None:
        file = wav(LOW + SILENCE + HIGH)
        heard = stack.openai().audio.transcriptions.create(model=EARS, file=("sound.wav", file), language="en")
        assert heard.text == "low tone high tone"

    def test_verbose_json_has_the_language_that_was_heard_and_segments(self, stack: Stack) -> None:
        heard = stack.openai().audio.transcriptions.create(
            model=EARS, file=("sound.wav", wav(HIGH)), response_format="verbose_json"
        )
        assert (heard.text, heard.language, float(heard.duration)) == ("high tone", "en", 1.0)
        assert heard.segments is not None
        assert [(segment.text, segment.start, segment.end) for segment in heard.segments] == [("high tone", 0, 1.0)]

    def test_a_stream_carries_the_asked_name_and_ends_with_usage(self, stack: Stack) -> None:
        chunks: list[Any] = [
            chunk.to_dict()
            for chunk in stack.openai().audio.transcriptions.create(
                model=EARS,
                file=("sound.wav", wav(LOW)),
                language="en",
                stream=True,
                extra_body={"stream_include_usage": True},
            )
        ]
        assert {chunk["model"] for chunk in chunks} == {EARS}
        texts = [choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(texts) == "low tone"
        assert len(texts) > 2
        assert chunks[-1]["usage"]["completion_tokens"] > 2

    def test_what_is_no_sound_is_refused(self, stack: Stack) -> None:
        for file in (b"RIFF, but no sound", b""):
            with pytest.raises(openai.BadRequestError, match="Invalid or corrupted audio data") as refused:
                stack.openai().audio.transcriptions.create(model=EARS, file=("sound.wav", file), language="en")
            assert error_of(refused.value) == ("BadRequestError", 400)

    def test_it_does_not_chat(self, stack: Stack) -> None:
        with pytest.raises(openai.NotFoundError, match="does not serve /v1/chat/completions; its tasks are: transcri"):
            ask(stack, EARS, CAPITAL)


@pytest.fixture(scope="class")
def eyes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    source = make("tiny_idefics", tmp_path_factory.mktemp("eyes"))
    yield from serve(stack, "eyes", source, served_name=EYES)


@pytest.mark.usefixtures("eyes")
class TestPictures:
    """A model that says "red" or "blue"."""

    @pytest.mark.parametrize(("file", "colour"), [(RED, "red"), (BLUE, "blue")], ids=["red", "blue"])
    def test_pictures_are_told_apart(self, stack: Stack, file: bytes, colour: str) -> None:
        assert ask(stack, EYES, about(file)) == colour

    def test_responses_take_a_picture(self, stack: Stack) -> None:
        answer = stack.openai().responses.create(
            model=EYES,
            temperature=0,
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": data_url(BLUE), "detail": "auto"},
                        {"type": "input_text", "text": QUESTION},
                    ],
                }
            ],
        )
        assert answer.output_text == "blue"

    def test_anthropics_messages_take_a_picture(self, stack: Stack) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(RED).decode()}
        content = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
        body = {"model": EYES, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        answer = httpx.post(f"{stack.url}/v1/messages", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        assert [part["text"] for part in answer.json()["content"]] == ["red"]

    def test_what_is_no_picture_is_refused(self, stack: Stack) -> None:
        for file in (RED[: len(RED) // 2], b"no picture"):
            with pytest.raises(openai.BadRequestError, match="Failed to load image") as refused:
                ask(stack, EYES, about(file))
            assert error_of(refused.value) == ("BadRequestError", 400)
