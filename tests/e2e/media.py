"""Files with the sounds and pictures that the tiny models of these tests know."""

from __future__ import annotations

import array
import base64
import io
import math
import wave
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

SAMPLE_RATE_HZ = 16_000
"""Whisper's sample rate. vLLM resamples files with another one."""
LOW_HZ, HIGH_HZ = 440.0, 1760.0
QUESTION = "what colour is this"
"""The question that goes with each picture."""
_AMPLITUDE = 0.5


def tone(
    frequency_hz: float,
    *,
    duration_s: float = 1.0,
    amplitude: float = _AMPLITUDE,
    phase: float = 0.0,
    rate_hz: int = SAMPLE_RATE_HZ,
) -> array.array[int]:
    """Samples of a sine, 16 bits each. Silence has an amplitude of zero."""
    step = 2 * math.pi * frequency_hz / rate_hz
    peak = amplitude * 32767
    return array.array("h", (round(peak * math.sin(phase + step * n)) for n in range(round(duration_s * rate_hz))))


def wav(samples: array.array[int], *, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """A WAV file with one channel."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(samples.itemsize)
        writer.setframerate(rate_hz)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def picture(colour: str, *, side: int = 32) -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def about(file: bytes) -> list[ChatCompletionMessageParam]:
    """A chat that asks the question about a picture."""
    return [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(file)}},
                {"type": "text", "text": QUESTION},
            ],
        }
    ]
