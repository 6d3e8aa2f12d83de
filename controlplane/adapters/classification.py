"""Adapters that bring a classification head of their own, as PEFT saves them (SEQ_CLS). Pure.

vLLM 0.32 takes the head `score` or `classifier` of an adapter where the base itself is served for
classification. No field of a spec says that: it follows from the engine arguments and from the
architecture, by vLLM's own rules (vllm/config/model.py, `_get_runner_type`, `_get_convert_type`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import json_format, struct_pb2

from broadsheet.v1 import model_pb2
from controlplane.adapters.refusals import CONFIG_FILE, invalid_weights, unsupported_config, unsupported_weights
from protocol.adapters.safetensors_header import FLOAT_DTYPES, Tensor
from protocol.validation import shorten

HEADS = frozenset({"classifier", "score"})
"""Modules that an adapter may replace as a whole."""

TASK_DEFAULTS: Sequence[tuple[str, tuple[str, str]]] = (
    ("ForCausalLM", ("generate", "none")),
    ("ForConditionalGeneration", ("generate", "none")),
    ("ChatModel", ("generate", "none")),
    ("LMHeadModel", ("generate", "none")),
    ("ForTextEncoding", ("pooling", "embed")),
    ("EmbeddingModel", ("pooling", "embed")),
    ("ForSequenceClassification", ("pooling", "classify")),
    ("ForTokenClassification", ("pooling", "classify")),
    ("ForAudioClassification", ("pooling", "classify")),
    ("ForImageClassification", ("pooling", "classify")),
    ("ForVideoClassification", ("pooling", "classify")),
    ("ClassificationModel", ("pooling", "classify")),
    ("ForRewardModeling", ("pooling", "embed")),
    ("RewardModel", ("pooling", "embed")),
    ("Model", ("pooling", "embed")),
)
"""What an architecture's name ends with → its default runner and conversion. The first counts."""

_LABELS_DEFAULT = 2
"""Labels of a model whose config.json names none (transformers, `PreTrainedConfig`)."""

_PARAMETER = re.compile(r"(?:base_model\.model\.)?(?P<head>score|classifier)\.(?P<parameter>weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseHead:
    """The classification head of a base that is served for classification."""

    names: frozenset[str]
    """What it may be called."""
    labels_max: int | None
    """Labels that an adapter's own head may have. None: not known."""
    columns: int | None
    """Width of its input. None: not known."""


def architectures(config: Mapping[str, object]) -> Sequence[str]:
    """What a config.json calls its model. Empty: it says nothing."""
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def base_head(
    engine: model_pb2.Engine, config: Mapping[str, object], tensors: Mapping[str, Tensor] | None
) -> BaseHead | None:
    """The head of a base model. None: it is not served for classification, or nothing says so.

    Args:
        engine: The base's engine.
        config: Its config.json. Empty: not known.
        tensors: Its tensors, by name. None: not known.
    """
    if engine.kind == model_pb2.Engine.KIND_SIMULATED:
        return None
    overrides = _mapping(_argument(engine.args, "hf_overrides"))
    config = {**config, **overrides}
    names = architectures(config)
    if not _classifies(engine.args, names):
        return None
    stored = {name: tensor for name in HEADS if (tensor := (tensors or {}).get(f"{name}.weight")) is not None}
    labels = _whole(_argument(engine.args, "max_lora_cls_labels"))
    return BaseHead(
        names=frozenset(stored) or _usual_names(names),
        labels_max=labels or _labels(config, overrides),
        columns=_whole(config.get("hidden_size")),
    )


def generates(engine: model_pb2.Engine, config: Mapping[str, object], *, pools: bool) -> bool:
    """Whether a base is known to be served for generating text.

    Args:
        engine: The base's engine.
        config: Its config.json. Empty: not known.
        pools: Whether its files say that it makes embeddings, whatever its architecture is.
    """
    if engine.kind == model_pb2.Engine.KIND_SIMULATED:
        return False
    names = architectures({**config, **_mapping(_argument(engine.args, "hf_overrides"))})
    runner, convert = _asked(engine.args)
    if runner != "auto" or convert not in ("auto", "none"):
        return runner == "generate"
    return bool(names) and not pools and _default_runner(names) == "generate"


def check_head(
    saved_modules: frozenset[str], tensors: Mapping[str, Tensor], base: BaseHead | None
) -> Mapping[str, Tensor]:
    """Check the head of an adapter. Returns the tensors that are not of the head.

    Args:
        saved_modules: The modules that the configuration says it replaces (`modules_to_save`).
        tensors: All of its tensors, by name.
        base: The head of its base. None: the base is not served for classification.

    Raises:
        errors.InvalidArgument: the engine cannot serve it.
    """
    if not saved_modules:
        return tensors
    if base is None:
        raise unsupported_config(
            "the adapter has a classification head of its own (modules_to_save), and nothing says that its base is "
            "served for classification: neither the engine argument convert: classify nor an architecture "
            "…ForSequenceClassification in a config.json that the control plane can read"
        )
    head: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _replaced(name, saved_modules):
            raise unsupported_weights(f"{shorten(name)} adds to a module that is replaced as a whole (modules_to_save)")
        match = _PARAMETER.fullmatch(name)
        if match is None or match["head"] not in saved_modules:
            others[name] = tensor
        elif head.setdefault(match["head"], {}).setdefault(match["parameter"], tensor) is not tensor:
            raise invalid_weights(f"{match['head']}.{match['parameter']} is there twice, under different names")
    named = " and ".join(sorted(saved_modules))
    if len(head) != 1:
        raise invalid_weights(
            f"modules_to_save in {CONFIG_FILE} is {named}; it has {len(head)} of them, and 1 is needed"
        )
    ((name, parameters),) = head.items()
    if name not in base.names:
        raise unsupported_weights(f"its head is {name}, and that of the base model {' or '.join(sorted(base.names))}")
    _check_shapes(name, parameters, base)
    return others


def _replaced(name: str, saved_modules: frozenset[str]) -> bool:
    module, _, matrix = name.removeprefix("base_model.model.").partition(".")
    return module in saved_modules and matrix.startswith("lora_")


def check_output(modules: Iterable[str]) -> None:
    """Refuse matrices for output embeddings: a base that classifies has its head instead.

    Raises:
        errors.InvalidArgument: there are such matrices.
    """
    for module in modules:
        if module.rpartition(".")[2] == "lm_head":
            raise unsupported_weights(f"{module} is for texts, and the base is served for classification, without it")


def _check_shapes(name: str, parameters: Mapping[str, Tensor], base: BaseHead) -> None:
    for parameter, tensor in parameters.items():
        if tensor.dtype not in FLOAT_DTYPES:
            raise unsupported_weights(f"{name}.{parameter} has dtype {tensor.dtype}; F32, F16 or BF16 can be served")
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if weight is None or len(weight.shape) != 2:
        raise invalid_weights(f"{name} has no matrix {name}.weight")
    labels, columns = weight.shape
    if bias is not None and bias.shape != (labels,):
        raise invalid_weights(f"{name}.bias has shape {list(bias.shape)}, and {name}.weight {list(weight.shape)}")
    if labels < 1 or (base.labels_max is not None and labels > base.labels_max):
        raise unsupported_weights(
            f"{name} has {labels} labels, and its base serves 1 to {base.labels_max or 'any number'}; the engine "
            "argument max_lora_cls_labels raises that"
        )
    if base.columns is not None and columns != base.columns:
        raise unsupported_weights(f"{name} takes {columns} values, and the base model gives it {base.columns}")


def _classifies(args: struct_pb2.Struct, names: Sequence[str]) -> bool:
    runner, convert = _asked(args)
    if _mapping(_argument(args, "pooler_config")).get("task", "classify") != "classify":
        return False
    if any("ForTokenClassification" in name for name in names):
        return False  # vLLM classifies tokens with the base's own head only
    if runner == "auto":
        runner = _default_runner(names) if convert in ("auto", "none") else "pooling"
    if runner != "pooling":
        return False
    if convert in ("auto", "none"):
        convert = next((found[1] for name in names if (found := _defaults(name, "pooling"))), "embed")
    return convert == "classify"


def _asked(args: struct_pb2.Struct) -> tuple[str, str]:
    """The runner and the conversion that the engine arguments name."""
    return str(_argument(args, "runner") or "auto"), str(_argument(args, "convert") or "auto")


def _default_runner(names: Sequence[str]) -> str:
    return next((found[0] for name in names if (found := _defaults(name))), "generate")


def _defaults(architecture: str, runner: str | None = None) -> tuple[str, str] | None:
    for ending, defaults in TASK_DEFAULTS:
        if architecture.endswith(ending) and runner in (None, defaults[0]):
            return defaults
    return None


def _usual_names(names: Sequence[str]) -> frozenset[str]:
    """A generating model that vLLM turns into a classifier gets the head `score`."""
    is_converted = any((_defaults(name) or ("", ""))[0] == "generate" for name in names)
    return frozenset({"score"}) if is_converted else HEADS


def _labels(config: Mapping[str, object], overrides: Mapping[str, object]) -> int | None:
    if not config:
        return None
    names = config.get("id2label")
    stated = _whole(overrides.get("num_labels"))
    if stated is None and isinstance(names, dict):
        return len(names)
    return stated or _whole(config.get("num_labels")) or _LABELS_DEFAULT


def _argument(args: struct_pb2.Struct, flag: str) -> object:
    """The value of an engine argument, with the keys that have arguments of their own below it."""
    given = args.fields.get(flag)
    value = json_format.MessageToDict(given) if given is not None else None
    below = {key.removeprefix(f"{flag}."): item for key, item in args.fields.items() if key.startswith(f"{flag}.")}
    if not below:
        return value
    return {**_mapping(value), **{key: json_format.MessageToDict(item) for key, item in below.items()}}


def _mapping(value: object) -> Mapping[str, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int | None:
    # Numbers of a Struct are floats.
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and value > 0
    return int(value) if is_whole and isinstance(value, int | float) else None
