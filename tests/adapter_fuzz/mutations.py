"""Mutations of an adapter's configuration, tensors and files. Pure: the random source is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.adapter_fuzz.directories import HIDDEN, ITEM_BYTES, SEEDS, AdapterDraft, TensorDraft

_VALUES: Sequence[object] = (
    None, True, False, 0, 1, 2, 4, 8, 16, 17, 64, -1, 0.5, 1.0, 4.0, 1e308, 10**30, 2**17, 2**40, float("nan"),
    float("inf"), -float("inf"), "", "4", "none", "all", "lora_only", "gaussian", "Gaussian", "pissa", "olora", "LORA",
    "x", [], [1], ["q_proj"], ["score"], ["classifier", "score"], ["lm_head"], [["q_proj"]], {}, {"q_proj": 4},
    {"q_proj": 8}, {"q_proj": "8"}, {"q_proj": None}, {"q_proj": True}, {"q_proj": 4.0},
    {"(": 4}, {"": 4}, {"x": 16}, {"q_proj": {}},
)  # fmt: skip
_KEYS = (
    "r", "lora_alpha", "target_modules", "bias", "modules_to_save", "use_rslora", "use_dora", "lora_bias",
    "init_lora_weights", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "rank_pattern",
    "alpha_pattern", "peft_type", "task_type", "fan_in_fan_out", "base_model_name_or_path", "target_parameters",
    "trainable_token_indices", "vllm_lora_scaling_factor", "vllm_max_position_embeddings", "inference_mode", "unknown",
)  # fmt: skip
_PATTERN_KEYS = (
    "q_proj", "v_proj", "_proj", r".*\.q_proj", r"layers\.0\.self_attn\.q_proj", "model.layers.1.self_attn.v_proj",
    "self_attn", "(q|v)_proj", r"[qv]_proj", "^q_proj", "q_proj$", "(q_proj", "*", "", "lm_head", "score", r"\d+", "Ü",
)  # fmt: skip
_PATTERN_VALUES: Sequence[object] = (
    1,
    2,
    4,
    8,
    16,
    32,
    0,
    -4,
    4.0,
    "4",
    None,
    True,
    float("nan"),
    float("inf"),
    [],
    1e30,
)
_RAW: Sequence[Callable[[bytes], bytes]] = (
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text.decode().encode("utf-16"),
    lambda text: text.decode().encode("utf-32-le"),
    lambda text: text[:-1],
    lambda text: text + b"x",
    lambda text: b"\n " + text + b" \r\n",
    lambda text: text.replace(b"a-base", b"\xff"),
    lambda text: text.replace(b"a-base", b"\\ud800"),
    lambda text: text[:-1] + b', "r": 2}',
    lambda text: text[:-1] + b', "lora_alpha": 1e999}',
    lambda text: text[:-1] + b', "r": 1' + b"0" * 5000 + b"}",
    lambda text: text[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    lambda text: text[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    lambda text: text[:-1] + b", // a comment\n}",
    lambda text: b"[" + text + b"]",
    lambda text: text.replace(b'"', b"'"),
    lambda text: b"",
    lambda text: b"null",
    lambda text: b"\0" + text,
)
_BEGINNINGS = (
    "", "base_model.", "base_model.model.base_model.model.", "base_model.model.model.", "base_model.model._orig_mod.",
    "base_model.model.module.", "module.base_model.model.", "base_model.model.language_model.",
    "base_model.model.transformer.", "base_model.model.x.", "Base_model.model.",
    "base_model.model.model.language_model.",
)  # fmt: skip
_ENDINGS = (
    ".lora_A.default.weight", ".lora_a.weight", ".lora_A", ".lora_A.bias", ".lora_embedding_A", ".lora_B.weight",
    ".weight", ".base_layer.weight", ".lora_magnitude_vector", ".lora_A.weight.x", ".lora_A..weight", ".lora_C.weight",
)  # fmt: skip
_PARTS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "self_attn.qkv_proj", "self_attn.x_proj", "mlp.q_proj",
    "mlp.gate_up_proj", "mlp.down_proj", "input_layernorm", "self_attn", "mlp.experts", "mlp.experts.0.gate_proj",
    "mlp.experts.base_layer", "attn.c_attn", "embed_tokens", "lm_head", "score",
)  # fmt: skip
_DTYPES = (*ITEM_BYTES, "F4", "C64", "F128", "", "f32")
_FILLS = (b"\x01", b"\xff", b"\x7f\x80", b"\x00\x00\xc0\x7f", b"\x00\x3c", b"\x3c", b"\x48", b"\x7f")
_ENTRIES: Sequence[object] = (
    None, 7, [], {}, "x",
    {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]},
)  # fmt: skip
_FIELDS: Sequence[tuple[str, object]] = (
    ("dtype", None), ("dtype", 7), ("dtype", "F64"), ("shape", None), ("shape", 4), ("shape", [-4, 16]),
    ("shape", [4.0, 16]), ("shape", [True, 64]), ("shape", ["4", 16]), ("shape", [[4, 16]]), ("shape", [1] * 12),
    ("data_offsets", None),
    ("data_offsets", [0]), ("data_offsets", [0, 0]), ("data_offsets", [8, 4]), ("data_offsets", [-4, 60]),
    ("data_offsets", [0, 2**64]), ("data_offsets", [0.0, 64.0]), ("data_offsets", [0, 256]), ("x", 7),
)  # fmt: skip


def set_key(draft: AdapterDraft, random: Random) -> None:
    draft.config[random.choice(_KEYS)] = random.choice(_VALUES)


def delete_key(draft: AdapterDraft, random: Random) -> None:
    if draft.config:
        del draft.config[random.choice(sorted(draft.config))]


def add_pattern(draft: AdapterDraft, random: Random) -> None:
    name = random.choice(("rank_pattern", "alpha_pattern"))
    before = draft.config.get(name)
    added = {random.choice(_PATTERN_KEYS): random.choice(_PATTERN_VALUES)}
    draft.config[name] = {**added, **before} if isinstance(before, dict) and random.random() < 0.5 else added


def respell_config(draft: AdapterDraft, random: Random) -> None:
    draft.config_bytes = random.choice(_RAW)(json.dumps(draft.config).encode())


def rename_beginning(draft: AdapterDraft, random: Random) -> None:
    begin, chosen = random.choice(_BEGINNINGS), _some(draft, random)
    for tensor in chosen:
        tensor.name = begin + tensor.name.removeprefix("base_model.model.")


def rename_ending(draft: AdapterDraft, random: Random) -> None:
    ending = random.choice(_ENDINGS)
    for tensor in _some(draft, random):
        for old in (".lora_A.weight", ".lora_B.weight"):
            if tensor.name.endswith(old):
                tensor.name = tensor.name.removesuffix(old) + ending.replace("_A", old[5:7])


def rename_module(draft: AdapterDraft, random: Random) -> None:
    """Give the matrices of a module to another one, with or without its layer."""
    path, _, _ = random.choice(draft.tensors).name.rpartition(".lora_")
    part = random.choice(_PARTS)
    layer = path.rpartition(".self_attn")[0] or path.rpartition(".mlp")[0] or path.rpartition(".")[0]
    top = random.random() < 0.3
    for tensor in draft.tensors:
        if tensor.name.startswith(path + ".lora_"):
            tensor.name = (f"base_model.model.{part}" if top else f"{layer}.{part}") + tensor.name.removeprefix(path)


def rename_layer(draft: AdapterDraft, random: Random) -> None:
    number = random.choice(("2", "7", "00", "-1", "x", "1000000000000", "¹"))
    for tensor in draft.tensors:
        tensor.name = tensor.name.replace(".layers.1.", f".layers.{number}.")


def odd_name(draft: AdapterDraft, random: Random) -> None:
    names = ("x" * 300, "", ".", "Ü.lora_A.weight", "a\0b.lora_A.weight", ".lora_A.weight", "lora_A.weight", "weight",
             "\ud800.lora_A.weight")  # fmt: skip
    random.choice(draft.tensors).name = random.choice(names)


def drop_tensor(draft: AdapterDraft, random: Random) -> None:
    draft.tensors.remove(random.choice(draft.tensors))
    if not draft.tensors:
        draft.tensors.append(TensorDraft("x", [1]))


def copy_tensor(draft: AdapterDraft, random: Random) -> None:
    tensor = random.choice(draft.tensors)
    name = tensor.name.removeprefix("base_model.model.") if random.random() < 0.5 else tensor.name
    draft.tensors.append(TensorDraft(name, [*tensor.shape], tensor.dtype, tensor.fill))


def add_tensor(draft: AdapterDraft, random: Random) -> None:
    name = random.choice(
        (
            "base_model.model.score.weight",
            "base_model.model.score.bias",
            "base_model.model.classifier.weight",
            "base_model.model.model.score.weight",
            "base_model.model.score.modules_to_save.weight",
            "base_model.model.lm_head.weight",
            "base_model.model.lm_head.base_layer.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.bias",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
            "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
            "base_model.model.score.lora_A.weight",
        )
    )
    shape = random.choice(([2, HIDDEN], [1, HIDDEN], [3, HIDDEN], [2, 8], [2], [0, HIDDEN]))
    draft.tensors.append(TensorDraft(name, [*shape]))


def reshape(draft: AdapterDraft, random: Random) -> None:
    tensor = random.choice(draft.tensors)
    change = random.randrange(7)
    if change == 0:
        tensor.shape.reverse()
    elif change == 1:
        tensor.shape.append(1)
    elif change == 2:
        tensor.shape = tensor.shape[:-1]
    else:
        axis = random.randrange(max(1, len(tensor.shape)))
        if tensor.shape:
            size = tensor.shape[axis]
            tensor.shape[axis] = (size + 1, max(0, size - 1), 0, size * 2)[change - 3]


def change_rank(draft: AdapterDraft, random: Random) -> None:
    """Give one module, or all, another rank, and perhaps say so."""
    rank = random.choice((1, 2, 3, 8, 16, 17, 32))
    path = random.choice(draft.tensors).name.rpartition(".lora_")[0] if random.random() < 0.5 else ""
    for tensor in draft.tensors:
        if len(tensor.shape) == 2 and tensor.name.startswith(path) and ".lora_" in tensor.name:
            tensor.shape["lora_B" in tensor.name or "embedding_B" in tensor.name] = rank
    if random.random() < 0.5:
        draft.config["r"] = rank


def change_dtype(draft: AdapterDraft, random: Random) -> None:
    dtype = random.choice(_DTYPES)
    for tensor in _some(draft, random):
        tensor.dtype = dtype


def change_values(draft: AdapterDraft, random: Random) -> None:
    for tensor in _some(draft, random):
        tensor.fill = random.choice(_FILLS)


def edit_header(draft: AdapterDraft, random: Random) -> None:
    edits: Sequence[tuple[str, object]] = (
        ("repeat", None),
        ("metadata", random.choice((None, {}, {"a": 1}, {"a": None}, [], "x", 7))),
        ("entry", random.choice(_ENTRIES)),
        ("field", random.choice(_FIELDS)),
        ("header prefix", random.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\0"))),
        ("header suffix", random.choice((b" ", b"    ", b"\n", b"\0", b"x"))),
        ("header length", random.choice((-1, 1, -8, 8, 2**33, 2**64, -(10**6)))),
        ("cut", random.choice((0.0, 0.001, 0.3, 0.9, 0.9999))),
        ("append", random.choice((b"\0", b"\0" * 64, b"x"))),
    )
    draft.header_edits.append(random.choice(edits))


def _some(draft: AdapterDraft, random: Random) -> list[TensorDraft]:
    """All tensors, those of a side, or one."""
    kind = random.randrange(3)
    side = random.choice(("lora_A", "lora_B"))
    if kind == 0:
        return [*draft.tensors]
    return [tensor for tensor in draft.tensors if side in tensor.name] if kind == 1 else [random.choice(draft.tensors)]


MUTATIONS: dict[str, Callable[[AdapterDraft, Random], None]] = {
    mutate.__name__: mutate
    for mutate in (
        set_key, delete_key, add_pattern, respell_config, rename_beginning, rename_ending, rename_module, rename_layer,
        odd_name, drop_tensor, copy_tensor, add_tensor, reshape, change_rank, change_dtype, change_values, edit_header,
    )
}  # fmt: skip
_WEIGHTS = [6, 2, 5, 2, 3, 2, 5, 2, 1, 2, 2, 3, 4, 3, 2, 2, 5]


@dataclass(frozen=True, slots=True)
class Step:
    """One mutation, with the seed of its choices."""

    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """A mutated adapter. The same case makes the same files."""

    start: str
    """Of `SEEDS`."""
    steps: tuple[Step, ...]

    def draft(self) -> AdapterDraft:
        """Its files."""
        draft = SEEDS[self.start]()
        # The spelling of the configuration comes last: it is made of the others' result.
        for step in sorted(self.steps, key=lambda step: step.name == "respell_config"):
            MUTATIONS[step.name](draft, Random(step.seed))
        return draft


def random_case(random: Random) -> Case:
    """A case of one to three mutations."""
    names = random.choices(list(MUTATIONS), _WEIGHTS, k=random.choice((1, 1, 1, 2, 2, 3)))
    steps = tuple(Step(name, random.randrange(10**6)) for name in names)
    return Case(random.choice(list(SEEDS)), steps)
