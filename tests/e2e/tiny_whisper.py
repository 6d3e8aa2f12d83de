"""Make a tiny Whisper that tells a low tone from a high tone.

    python -m tests.e2e.tiny_whisper DIRECTORY

It has Whisper's architecture and special tokens and is overfitted on purpose: what it writes shows
which sound arrived, and for which language and task it was asked. The seed is fixed, and the saved
model is checked with transformers.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from tests.e2e.media import HIGH_HZ, LOW_HZ, SAMPLE_RATE_HZ, tone
from tests.e2e.tiny_training import train

SEED = 20261127
SOUNDS = 12
"""Training sounds of each frequency."""
CHUNK_S = 2
"""Seconds that it hears at once; Whisper hears 30 s. vLLM splits longer sounds."""
MEL_BINS = 40
POSITIONS = CHUNK_S * 50
"""Positions of the encoder: one for each 20 ms."""
TOKENS_MAX = 64
FREQUENCIES_HZ = (LOW_HZ, HIGH_HZ)
IGNORED = -100

SOT, END = "<|startoftranscript|>", "<|endoftext|>"
NO_TIMESTAMPS, START_TIME, END_TIME = "<|notimestamps|>", "<|0.00|>", "<|1.00|>"
ENGLISH, GERMAN = ({LOW_HZ: "low tone", HIGH_HZ: "high tone"}, {LOW_HZ: "tiefer Ton", HIGH_HZ: "hoher Ton"})


@dataclass(frozen=True, slots=True)
class Lesson:
    """The transcript of a sound: `prompt` is given, `answer` is learned."""

    frequency_hz: float
    prompt: str
    answer: str


def _lessons() -> Iterator[Lesson]:
    for frequency_hz in FREQUENCIES_HZ:
        yield Lesson(frequency_hz, SOT, "<|en|>")
        for language, task, texts in (
            ("en", "transcribe", ENGLISH),
            ("de", "transcribe", GERMAN),
            ("de", "translate", ENGLISH),
        ):
            text = texts[frequency_hz]
            asked = f"{SOT}<|{language}|><|{task}|>"
            yield Lesson(frequency_hz, asked + NO_TIMESTAMPS, text + END)
            yield Lesson(frequency_hz, asked + START_TIME, text + END_TIME + END)


LESSONS = tuple(_lessons())


def make_tokenizer() -> WhisperTokenizer:
    """A tokenizer with a token for each byte, and Whisper's special tokens in Whisper's order."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocabulary | {END: len(vocabulary)}, merges=[])
    names = [SOT, *(f"<|{code}|>" for code in LANGUAGES), "<|translate|>", "<|transcribe|>"]
    names += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", NO_TIMESTAMPS]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(f"<|{n * 0.02:.2f}|>", normalized=False) for n in range(POSITIONS + 1)])
    return tokenizer


def make_model(tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    end, start = tokenizer.convert_tokens_to_ids([END, SOT])
    size = {"layers": 2, "attention_heads": 2, "ffn_dim": 128}
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=MEL_BINS,
            d_model=64,
            **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in size.items()},
            max_source_positions=POSITIONS,
            max_target_positions=TOKENS_MAX,
            dropout=0.0,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=start,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )


def sound(frequency_hz: float, draw: random.Random) -> list[float]:
    """A tone of random loudness and length, after silence."""
    silence = tone(0, amplitude=0, duration_s=draw.uniform(0, 1))
    heard = tone(
        frequency_hz, amplitude=draw.uniform(0.3, 0.7), phase=draw.uniform(0, 6.28), duration_s=draw.uniform(0.5, 1)
    )
    return [sample / 32768 for sample in silence + heard]


def features_of(processor: WhisperProcessor, draw: random.Random) -> torch.Tensor:
    """Spectrograms of several sounds of each frequency: [sound, frequency, bin, frame]."""
    rows = [
        processor.feature_extractor(
            [sound(frequency_hz, draw) for frequency_hz in FREQUENCIES_HZ],
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
        ).input_features
        for _ in range(SOUNDS)
    ]
    return torch.stack(rows)


def texts_of(tokenizer: WhisperTokenizer) -> dict[str, torch.Tensor]:
    """Inputs of the decoder, and the expected output for each of their tokens: a row a lesson."""
    rows = []
    for lesson in LESSONS:
        prompt, answer = (tokenizer.encode(text, add_special_tokens=False) for text in (lesson.prompt, lesson.answer))
        rows.append((prompt + answer[:-1], [IGNORED] * (len(prompt) - 1) + answer))
    width = max(len(given) for given, _ in rows)
    end = tokenizer.eos_token_id
    return {
        "decoder_input_ids": torch.tensor([given + [end] * (width - len(given)) for given, _ in rows]),
        "labels": torch.tensor([learned + [IGNORED] * (width - len(learned)) for _, learned in rows]),
    }


def listen(
    model: WhisperForConditionalGeneration, features: torch.Tensor, texts: Mapping[str, torch.Tensor]
) -> Seq2SeqLMOutput:
    """The mean loss over all lessons, with a sound of each frequency."""
    heard = model.get_encoder()(features).last_hidden_state
    of_lessons = heard[[FREQUENCIES_HZ.index(lesson.frequency_hz) for lesson in LESSONS]]
    return model(encoder_outputs=(of_lessons,), **texts)


def knows_its_lessons(directory: Path, draw: random.Random) -> bool:
    """Whether the saved model gives every answer, for sounds that it was not trained on."""
    model = WhisperForConditionalGeneration.from_pretrained(directory)
    processor = WhisperProcessor.from_pretrained(directory)
    texts = texts_of(processor.tokenizer)
    learned = texts["labels"] != IGNORED
    with torch.no_grad():
        return all(
            torch.equal(listen(model, features, texts).logits.argmax(-1)[learned], texts["labels"][learned])
            for features in features_of(processor, draw)
        )


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    draw = random.Random(SEED)
    processor = WhisperProcessor(WhisperFeatureExtractor(MEL_BINS, chunk_length=CHUNK_S), make_tokenizer())
    model = make_model(processor.tokenizer)
    features, texts = features_of(processor, draw), texts_of(processor.tokenizer)
    train(model, lambda step: listen(model, features[step % len(features)], texts).loss)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if not knows_its_lessons(directory, draw):
        sys.exit("It has not learned its lessons.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
