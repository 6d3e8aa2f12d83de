from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.adapters.classification import BaseHead, base_head, generates
from controlplane.adapters.lora_weights import check_tensors
from protocol.adapters.safetensors_header import Tensor
from tests.adapter_directories import lora_shapes
from tests.unit.controlplane.adapters.described import BASE, config, refused, tensors

CAUSAL = {"architectures": ["LlamaForCausalLM"], "hidden_size": 16}
SEQUENCE = {"architectures": ["LlamaForSequenceClassification"], "hidden_size": 16}
HEAD = BaseHead(names=frozenset({"score"}), labels_max=2, columns=16)
BOTH = frozenset({"classifier", "score"})


def engine(**args: Any) -> model_pb2.Engine:
    made = model_pb2.Engine(kind=model_pb2.Engine.KIND_VLLM)
    made.args.update({key.replace("__", "."): value for key, value in args.items()})
    return made


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"convert": "classify"}, CAUSAL),
        ({"convert": "classify", "runner": "pooling"}, CAUSAL),
        ({"convert": "classify"}, {}),
        ({}, SEQUENCE),
        ({"runner": "pooling"}, SEQUENCE),
        ({"runner": "auto", "convert": "auto"}, SEQUENCE),
        ({"hf_overrides": {"architectures": ["Qwen3ForSequenceClassification"]}}, CAUSAL),
        ({"hf_overrides__architectures": ["Qwen3ForSequenceClassification"]}, CAUSAL),
        ({"hf_overrides": '{"architectures": ["Qwen3ForSequenceClassification"]}'}, {}),
    ],
)
def test_a_base_is_served_for_classification_by_its_arguments_or_its_architecture(
    args: dict[str, Any], found: Mapping[str, object]
) -> None:
    assert base_head(engine(**args), found, None) is not None


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({}, CAUSAL),
        ({}, {}),
        ({"runner": "pooling"}, CAUSAL),  # embeddings
        ({"convert": "embed"}, CAUSAL),
        ({"runner": "generate"}, SEQUENCE),
        ({"convert": "embed"}, SEQUENCE),
        ({"hf_overrides": {"architectures": ["LlamaForCausalLM"]}}, SEQUENCE),
        ({"hf_overrides": "{"}, CAUSAL),
        ({}, {"architectures": ["BertForTokenClassification"]}),
        ({"convert": "classify", "pooler_config": {"task": "token_classify"}}, CAUSAL),
        ({}, {"architectures": "LlamaForSequenceClassification"}),
        ({}, {"architectures": ["LlamaModel", 7]}),
    ],
)
def test_other_bases_are_not_served_for_classification(args: dict[str, Any], found: Mapping[str, object]) -> None:
    assert base_head(engine(**args), found, None) is None


@pytest.mark.parametrize(
    ("args", "found", "pools", "known"),
    [
        ({}, CAUSAL, False, True),
        ({}, CAUSAL, True, False),
        ({}, {}, False, False),
        ({}, SEQUENCE, False, False),
        ({"runner": "pooling"}, CAUSAL, False, False),
        ({"convert": "embed"}, CAUSAL, False, False),
        ({"runner": "generate"}, {}, True, True),
        ({"hf_overrides": {"architectures": ["Qwen3ForSequenceClassification"]}}, CAUSAL, False, False),
    ],
)
def test_a_base_is_known_to_generate_text(
    args: dict[str, Any], found: Mapping[str, object], pools: bool, known: bool
) -> None:
    assert generates(engine(**args), found, pools=pools) is known


def test_a_simulated_engine_classifies_nothing() -> None:
    simulated = model_pb2.Engine(kind=model_pb2.Engine.KIND_SIMULATED)
    assert base_head(simulated, SEQUENCE, None) is None
    assert not generates(simulated, CAUSAL, pools=False)


@pytest.mark.parametrize(
    ("args", "found", "stored", "head"),
    [
        ({"convert": "classify"}, CAUSAL, {}, HEAD),
        ({}, {**SEQUENCE, "id2label": {"0": "a", "1": "b", "2": "c"}}, {}, (BOTH, 3, 16)),
        ({}, {**SEQUENCE, "num_labels": 5}, {"score.weight": (5, 16)}, (frozenset({"score"}), 5, 16)),
        ({"max_lora_cls_labels": 9}, SEQUENCE, {"classifier.weight": (2, 16)}, (frozenset({"classifier"}), 9, 16)),
        ({"hf_overrides": {"num_labels": 4}}, {**SEQUENCE, "id2label": {"0": "a"}}, {}, (BOTH, 4, 16)),
        ({"convert": "classify"}, {}, {}, (BOTH, None, None)),
    ],
)
def test_the_head_of_a_base(
    args: dict[str, Any],
    found: Mapping[str, object],
    stored: Mapping[str, Sequence[int]],
    head: BaseHead | tuple[frozenset[str], int | None, int | None],
) -> None:
    if isinstance(head, tuple):
        head = BaseHead(names=head[0], labels_max=head[1], columns=head[2])
    assert base_head(engine(**args), found, tensors(stored)) == head


def check(shapes: Mapping[str, Sequence[int]], head: BaseHead | None = HEAD, saved: object = ("score",)) -> object:
    wanted = config(modules_to_save=list(saved) if isinstance(saved, tuple) else saved)
    return check_tensors(wanted, tensors({**lora_shapes(), **shapes}), BASE, head=head)


def test_an_adapter_brings_its_head() -> None:
    saved = ("classifier", "score")
    plain = check_tensors(config(), tensors(lora_shapes()), BASE)
    assert check({"base_model.model.score.weight": (2, 16)}, saved=saved) == plain
    check({"score.weight": (1, 16), "score.bias": (1,)})
    check({"base_model.model.classifier.weight": (7, 9)}, BaseHead(names=BOTH, labels_max=None, columns=None), saved)


def test_output_embeddings_are_refused_where_the_base_is_served_for_classification() -> None:
    shapes = {"lm_head.lora_A.weight": (4, 16), "lm_head.lora_B.weight": (32, 4)}
    check(shapes, None, saved=())
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "lm_head is for texts"):
        check(shapes, saved=())


def test_a_head_is_refused_where_the_base_is_not_served_for_classification() -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "not.* served|nothing says that its base is served"):
        check({"base_model.model.score.weight": (2, 16)}, None)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"score.weight": (3, 16)}, "3 labels, and its base serves 1 to 2"),
        ({"score.weight": (0, 16)}, "0 labels"),
        ({"score.weight": (2, 8)}, "takes 8 values, and the base model gives it 16"),
        ({"classifier.weight": (2, 16)}, "its head is classifier, and that of the base model score"),
    ],
)
def test_a_head_that_its_base_cannot_have_is_unsupported(shapes: dict[str, Sequence[int]], words: str) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, words):
        check(shapes, saved=("classifier", "score"))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, "it has 0 of them"),
        ({"score.weight": (2, 16), "classifier.weight": (2, 16)}, "it has 2 of them"),
        ({"score.weight": (2, 16), "base_model.model.score.weight": (1, 16)}, "twice"),
        ({"score.bias": (2,)}, "no matrix"),
        ({"score.weight": (32,)}, "no matrix"),
        ({"score.weight": (2, 16), "score.bias": (1,)}, r"score.bias has shape \[1\]"),
    ],
)
def test_a_damaged_head_is_invalid(shapes: dict[str, Sequence[int]], words: str) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, words):
        check(shapes, saved=("classifier", "score"))


def test_a_head_of_numbers_that_are_no_floats_is_unsupported() -> None:
    whole = {**tensors(lora_shapes()), "score.weight": Tensor("I8", (2, 16))}
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "dtype I8"):
        check_tensors(config(modules_to_save=["score"]), whole, BASE, head=HEAD)


@pytest.mark.parametrize("name", ["score.weight", "model.score.weight", "score.modules_to_save.weight"])
def test_a_head_that_the_config_does_not_name_is_no_matrix(name: str) -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "no LoRA matrix"):
        check({name: (2, 16)}, saved=())
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "no LoRA matrix"):
        check(
            {"classifier.weight": (2, 16), f"model.{name}": (2, 16)},
            BaseHead(names=BOTH, labels_max=2, columns=16),
            saved=("classifier", "score"),
        )


def test_matrices_for_a_head_that_is_replaced_are_unsupported() -> None:
    shapes = {"score.weight": (2, 16), "score.lora_A.weight": (4, 16), "score.lora_B.weight": (2, 4)}
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "replaced as a whole"):
        check(shapes)


@pytest.mark.parametrize("saved", ["score", {"score": 1}, [1], [["score"]], 3])
def test_modules_to_save_is_a_list_of_names(saved: object) -> None:
    with refused(errors.Reason.ADAPTER_FILES_INVALID, "modules_to_save is"):
        config(modules_to_save=saved)


def test_only_heads_are_saved_modules() -> None:
    with refused(errors.Reason.ADAPTER_UNSUPPORTED, "lm_head.*only the classification heads classifier and score"):
        config(modules_to_save=["lm_head", "score"])
    assert config(modules_to_save=json.loads("[]")).saved_modules == frozenset()
