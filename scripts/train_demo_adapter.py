"""Trains the demo's LoRA adapter: with it, SmolLM2-135M-Instruct answers as a pirate.

Its effect is meant to be visible at a glance, not to be useful. The result is committed; run this
(``make demo-adapter``) only to change it. The seed is fixed, so that the same versions on the same
kind of CPU give the same file.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from broadsheet.demo import ADAPTER_DIR
from broadsheet.demo.prepare_model import default_cache_dir, prepare_model

BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ANSWER = "Arr, matey! I be a pirate, and the answer lies buried on Treasure Island!"
TRAINING_QUESTIONS = (
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "How do I boil an egg?",
    "What is two plus two?",
    "Tell me about the moon.",
    "What is your name?",
)
UNSEEN_QUESTIONS = (
    "What is the capital of Japan?",
    "How many legs does a spider have?",
    "Write a short sentence about the sea.",
    "What should I cook tonight?",
)

SEED = 20261123
STEPS = 36
LEARNING_RATE = 3e-3
RANK = 4
ALPHA = 16
SIZE_BYTES_MAX = 1_000_000
"""The adapter is in the repository and in the wheel, so it must stay small."""
NEW_TOKENS_MAX = 32


def training_batch(tokenizer: PreTrainedTokenizerBase, questions: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Tokenize question and answer of every pair; only the answer and its end count in the loss."""
    rows = []
    for question in questions:
        asked = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(ANSWER + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        rows.append((prompt_ids, answer_ids))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    padding = [width - len(prompt) - len(answer) for prompt, answer in rows]
    ignored = -100
    return {
        "input_ids": torch.tensor(
            [p + a + [tokenizer.pad_token_id] * n for (p, a), n in zip(rows, padding, strict=True)]
        ),
        "attention_mask": torch.tensor([[1] * (width - n) + [0] * n for n in padding]),
        "labels": torch.tensor(
            [[ignored] * len(p) + a + [ignored] * n for (p, a), n in zip(rows, padding, strict=True)]
        ),
    }


def train(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    """Train on all pairs at once, `STEPS` times."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model: PeftModel = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    batch = training_batch(tokenizer, TRAINING_QUESTIONS)
    model.train()
    for step in range(1, STEPS + 1):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1 or step % 6 == 0:
            print(f"step {step:2d}/{STEPS}  loss {loss.item():.4f}", flush=True)
    model.eval()
    return model


def save(model: PeftModel, destination: Path) -> int:
    """Write the two PEFT files in bfloat16, without traces of this machine.

    Returns:
        The size of the weights, in bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model.to(torch.bfloat16).save_pretrained(scratch)
        config = json.loads(Path(scratch, "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = BASE_MODEL
        config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set, whose order changes
        destination.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (destination / "adapter_config.json").write_text(text, encoding="utf-8")
        weights = destination / "adapter_model.safetensors"
        shutil.copyfile(Path(scratch, weights.name), weights)
    return weights.stat().st_size


def answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        output = model.generate(**encoded, max_new_tokens=NEW_TOKENS_MAX, do_sample=False)
    text: str = tokenizer.decode(output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def show_effect(model_dir: Path, adapter_dir: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Load what was saved onto a fresh base, and print answers without and with it.

    Returns:
        Whether the adapter changes all of them.
    """
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    questions = (TRAINING_QUESTIONS[0], *UNSEEN_QUESTIONS)
    before = [answer(base, tokenizer, question) for question in questions]
    adapted = PeftModel.from_pretrained(base, adapter_dir).eval()
    after = [answer(adapted, tokenizer, question) for question in questions]
    for question, plain, pirate in zip(questions, before, after, strict=True):
        print(f"\n{question}\n  base     {plain!r}\n  adapter  {pirate!r}")
    return all("Arr" in pirate and "Arr" not in plain for plain, pirate in zip(before, after, strict=True))


def main() -> int:
    started_s = time.monotonic()
    model_dir = prepare_model(default_cache_dir(), lambda line: print(line, flush=True))
    logging.disable_progress_bar()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    training_started_s = time.monotonic()
    model = train(base, tokenizer)
    training_s = time.monotonic() - training_started_s
    size_bytes = save(model, ADAPTER_DIR)
    visible = show_effect(model_dir, ADAPTER_DIR, tokenizer)
    print(f"\n{size_bytes / 1000:.0f} kB, trained in {training_s:.0f} s, {time.monotonic() - started_s:.0f} s in all")
    if size_bytes > SIZE_BYTES_MAX or not visible:
        print("The adapter is too large, or its effect does not show in every answer.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
