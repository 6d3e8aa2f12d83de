"""Sounds that the model of `tests.e2e.tiny_whisper` knows, as files."""

from __future__ import annotations

import array
import io
import math
import wave

SAMPLE_RATE_HZ = 16_000
"""What Whisper hears. Files with another rate are resampled by vLLM."""
LOW_HZ, HIGH_HZ = 440.0, 1760.0
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
