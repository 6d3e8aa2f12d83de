"""Make a tiny Idefics 3 that names the colour of a picture.

    python -m tests.e2e.tiny_idefics DIRECTORY

Few of vLLM's models take pictures without torchvision; Idefics 3 does. It is overfitted on purpose:
its answer shows which picture arrived. The seed is fixed, and the saved model is checked with
transformers.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from PIL import Image, ImageColor
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    Idefics3VisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.e2e.media import QUESTION
from tests.e2e.tiny_training import train

SEED = 20261127
SIDE, PATCH_SIDE = 32, 16
"""Edges of the model's picture and of each of its patches, in pixels."""
SCALE = 2
IMAGE_TOKENS = (SIDE // PATCH_SIDE // SCALE) ** 2
"""Edge of the square of patches that a token stands for."""
TOKENS_MAX = 128
COLOURS = ("red", "blue")
SHADES = 40
"""How far a channel may differ from that of its colour, of 255."""
VARIANTS = 12
"""Training pictures of each colour."""

UNKNOWN, START, END, IMAGE = "<unk>", "<s>", "</s>", "<image>"
AROUND_IMAGES = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
SPECIAL = (UNKNOWN, START, END, IMAGE, *AROUND_IMAGES)
CHAT_TEMPLATE = (
    START + "{% for message in messages %}{{ message.role }} : "
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}" + IMAGE + "{% else %}{{ part.text }}{% endif %} "
    "{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
IGNORED = -100


def make_processor() -> Idefics3Processor:
    """A tokenizer with a token for each word, and an image processor that needs no torchvision."""
    words = (*SPECIAL, *COLOURS, "user", "assistant", ":", *QUESTION.split())
    words_only = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words_only.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_only, unk_token=UNKNOWN, bos_token=START, eos_token=END, pad_token=END
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *AROUND_IMAGES]})
    side = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    return Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)


def make_model(processor: Idefics3Processor) -> Idefics3ForConditionalGeneration:
    tokenizer = processor.tokenizer
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config=Idefics3VisionConfig(**layers, image_size=SIDE, patch_size=PATCH_SIDE),
            text_config=LlamaConfig(
                **layers,
                vocab_size=len(tokenizer),
                max_position_embeddings=TOKENS_MAX,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            scale_factor=SCALE,
            image_token_id=processor.image_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def shaded(colour: str, draw: random.Random) -> Image.Image:
    """A picture of about this colour."""
    red, green, blue = (
        min(255, max(0, channel + draw.randint(-SHADES, SHADES))) for channel in ImageColor.getrgb(colour)
    )
    return Image.new("RGB", (SIDE, SIDE), (red, green, blue))


def lesson(processor: Idefics3Processor, draw: random.Random) -> dict[str, torch.Tensor]:
    """A picture of each colour, with the name of the colour as the answer."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = processor(
        images=[[shaded(colour, draw)] for colour in COLOURS],
        text=[f"{asked}{colour} {END}" for colour in COLOURS],
        return_tensors="pt",
        add_special_tokens=False,
    )
    labels = given["input_ids"].clone()
    labels[:, :-2] = IGNORED  # only the colour and the end are learned
    return {**given, "labels": labels}


def knows_its_lessons(directory: Path, draw: random.Random) -> bool:
    """Whether the saved model names the colours of pictures that it was not trained on."""
    model = Idefics3ForConditionalGeneration.from_pretrained(directory)
    processor = Idefics3Processor.from_pretrained(directory)
    with torch.no_grad():
        for _ in range(VARIANTS):
            given = lesson(processor, draw)
            learned = given["labels"][:, 1:] != IGNORED
            if not torch.equal(model(**given).logits[:, :-1].argmax(-1)[learned], given["labels"][:, 1:][learned]):
                return False
    return True


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    draw = random.Random(SEED)
    processor = make_processor()
    model = make_model(processor)
    lessons = [lesson(processor, draw) for _ in range(VARIANTS)]
    train(model, lambda step: model(**lessons[step % len(lessons)]).loss)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if not knows_its_lessons(directory, draw):
        sys.exit("It has not learned its lessons.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
