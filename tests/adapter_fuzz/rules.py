"""Where registration and vLLM may disagree, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A disagreement that is meant."""

    name: str
    pattern: str
    """Regular expression for the words of the side that refuses."""
    why: str


STRICTER: Sequence[Rule] = (
    Rule(
        name="not finite",
        pattern="a value is not finite, or is 131072 or more",
        why="one such value spoils the answers to everybody who shares the engine",
    ),
    Rule(
        name="absurd scale",
        pattern=r"(lora_alpha|alpha_pattern\[.*\]) is .*; a number between -131072 and 131072 is allowed",
        why="the engine multiplies matrices by it; one that is not finite or no number makes it compute NaN or fail",
    ),
    Rule(
        name="another kind of adapter",
        pattern="got peft_type .*; only 'LORA' can be served",
        why="vLLM does not look at peft_type, and would serve another method as if it were LoRA",
    ),
    Rule(
        name="token embeddings of its own",
        pattern="trainable_token_indices",
        why="vLLM ignores the key, and would answer without those embeddings",
    ),
    Rule(
        name="half a pair",
        pattern="and not the other one",
        why="vLLM applies no half, and answers as if the module were not in the adapter, or fails later",
    ),
    Rule(
        name="no common rank",
        pattern="no common rank",
        why="vLLM copies both into larger zeros, so that parts of one meet nothing of the other",
    ),
    Rule(
        name="another rank than stated",
        pattern=r"has rank \d+, and adapter_config.json gives it \d+",
        why="vLLM scales by the stated rank, so that the answers would be those of another adapter",
    ),
    Rule(
        name="smaller than the module",
        pattern=r"is \[.*\] in the base model, and the adapter is for \[.*\]",
        why="vLLM copies smaller matrices into zeros; such an adapter was trained for another base",
    ),
    Rule(
        name="described twice",
        pattern="twice, under different names|the header has the same key twice",
        why="which of both counts depends on the order in which a reader meets them",
    ),
    Rule(
        name="spaces before the header",
        pattern="the header is not a JSON object",
        why="the format says that a header begins with {",
    ),
    Rule(
        name="no floats of 16 bits or more",
        pattern=r"has dtype \w+; F32, F16 or BF16 can be served",
        why="vLLM converts the numbers, and what they are multiplied with is lost (quantised matrices)",
    ),
    Rule(
        name="a rank that is no whole number",
        pattern=r"(r|rank_pattern\[.*\]) is .*; a rank is a positive whole number",
        why="Python takes True for 1 and compares floats with ranks; PEFT writes whole numbers",
    ),
    Rule(
        name="a head that is named and missing",
        pattern="modules_to_save in adapter_config.json is .* and 1 is needed|nothing says that its base is served for",
        why="vLLM would answer with the head of the base",
    ),
    Rule(
        name="a head that is changed twice",
        pattern="adds to a module that is replaced as a whole",
        why="vLLM reads the matrices as if they were the head",
    ),
    Rule(
        name="a head at another place",
        pattern=r"score\.weight' is no LoRA matrix|classifier\.weight' is no LoRA matrix",
        why="vLLM looks at the last two parts of the name only; PEFT saves the head of the top-level model",
    ),
    Rule(
        name="modules_to_save is no list",
        pattern="modules_to_save is .*; a list of modules is allowed",
        why="vLLM iterates over it, and takes a text for its letters",
    ),
    Rule(
        name="matrices in the other form",
        pattern=r"has the matrices of (a linear layer|an embedding)",
        why="vLLM takes either name for what has the right shape; PEFT never writes them so",
    ),
    Rule(
        name="a pattern that is not simple",
        pattern="a key is a module's name or a simple pattern",
        why="a publisher could write a regular expression that takes hours",
    ),
)
"""Registration refuses what vLLM takes."""

LEFT_TO_THE_ENGINE: Sequence[Rule] = (
    Rule(
        name="experts",
        pattern=r"expected target modules .* but received \[[^\]]*experts",
        why="checkpoints keep experts apart or stacked; only the engine knows the names that a base uses",
    ),
)
"""Registration takes what vLLM refuses: the data plane then reports FAILED with vLLM's words."""


def explanation(rules: Sequence[Rule], words: str) -> Rule | None:
    """The first rule that explains a refusal."""
    return next((rule for rule in rules if re.search(rule.pattern, words, re.DOTALL)), None)
