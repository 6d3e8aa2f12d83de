"""Requests from YAML files and mappings, and problems with their lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from broadsheet import specs
from broadsheet.errors import InvalidSpec
from broadsheet.types import Engine, ModelSpec, RegisterModelRequest, Source

GOOD = """\
model_id: smollm2
served_name: smollm2
spec:
  source: {uri: "file:weights"}
  engine:
    kind: VLLM
    args: {enforce_eager: true, max_model_len: 2048, dtype: bfloat16, nested: {a: [1, null, x]}}
  resources: {cpus: 1.5, accelerator_type: H100}
  scaling:
    min_replicas: 0
    downscale_to_zero_delay: 5m
    upscale_delay: 2.5
  lora: {max_rank: 8}
card:
  display_name: SmolLM2
  tags: [small, chat]
labels: {team: search}
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "model.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(InvalidSpec) as caught:
        specs.load_model_request(write(folder, text))
    return str(caught.value)


def test_a_valid_file_becomes_the_request(tmp_path: Path) -> None:
    request = specs.load_model_request(write(tmp_path, GOOD))
    assert request.model_id == "smollm2"
    assert request.spec.source.uri == (tmp_path / "weights").as_uri()
    assert request.spec.engine.kind == Engine.KIND_VLLM
    assert MessageToDict(request.spec.engine.args) == {
        "enforce_eager": True,
        "max_model_len": 2048,
        "dtype": "bfloat16",
        "nested": {"a": [1, None, "x"]},
    }
    assert request.spec.resources.cpus == 1.5
    assert request.spec.scaling.downscale_to_zero_delay == Duration(seconds=300)
    assert request.spec.scaling.upscale_delay == Duration(seconds=2, nanos=500_000_000)
    assert list(request.card.tags) == ["small", "chat"]
    assert dict(request.labels) == {"team": "search"}


def test_json_is_yaml(tmp_path: Path) -> None:
    text = '{"model_id": "m", "spec": {"engine": {"kind": "SIMULATED"}}}'
    assert specs.load_model_request(write(tmp_path, text)).spec.engine.kind == Engine.KIND_SIMULATED


def test_a_pair_of_escapes_is_one_character(tmp_path: Path) -> None:
    fields = {
        "model_id": "e",
        "spec": {"engine": {"kind": "SIMULATED", "args": {"\U0001f916": ["\U0001f916"]}}},
        "card": {"display_name": "Bot \U0001f916"},
        "labels": {"bot": "\U0001f916"},
    }
    request = specs.load_model_request(write(tmp_path, json.dumps(fields)))
    assert request == specs.read_request(fields, RegisterModelRequest())
    assert request.card.display_name == "Bot \U0001f916"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"card": {"display_name": "\udcff"}}, "card.display_name"),
        ({"labels": {"a": "\udcff"}}, 'labels["a"]'),
        ({"labels": {"\udcff": "a"}}, "labels"),
        ({"spec": {"engine": {"args": {"a": ["\udcff"]}}}}, "spec.engine.args.a[0]"),
        ({"spec": {"engine": {"args": {"a": {"\udcff": 1}}}}}, "spec.engine.args.a"),
        ({"spec": {"source": {"uri": "/weights/\udcff"}}}, "spec.source.uri"),
    ],
)
def test_text_that_no_message_can_hold_is_named(fields: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        specs.read_request({"model_id": "m", **fields}, RegisterModelRequest())
    assert [violation.field for violation in caught.value.violations] == [path]


def test_a_home_directory_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match="got '~nobody-here/weights': that home directory is not known"):
        specs.source_uri("~nobody-here/weights", Path("/"))


def test_merge_keys_give_fields_that_are_not_given(tmp_path: Path) -> None:
    text = """\
model_id: m
spec:
  engine: &engine {kind: SIMULATED, args: &args {a: 1, b: 1, c: 1}}
  <<:
    - engine: {args: {<<: *args}}
      scaling: {<<: [{max_replicas: 4}, {max_replicas: 5, min_replicas: 2}], min_replicas: 1}
"""
    request = specs.load_model_request(write(tmp_path, text))
    assert request.spec.engine.kind == Engine.KIND_SIMULATED
    assert (request.spec.scaling.min_replicas, request.spec.scaling.max_replicas) == (1, 4)


MODEL = "model_id: m\nspec:\n"

BAD = {
    "empty file": ("", "the file is empty"),
    "only a comment": ("# nothing\n", "the file is empty"),
    "two documents": ("model_id: m\n---\nmodel_id: n\n", "2 YAML documents"),
    "no mapping": ("- a\n", "got a list; expected a mapping with model_id, served_name, spec"),
    "plain text": ("hello\n", "got 'hello'; expected a mapping"),
    "not YAML": ("model_id: [1\nspec: }", "not YAML at line 2"),
    "tab": ("model_id:\n\t- x\n", "not YAML at line 2"),
    "not UTF-8": (b"model_id: \xff\n", "not UTF-8 at byte 10"),
    "a tag": (MODEL + "  engine: !!python/object:os.system {}\n", "spec.engine (line 3): got the YAML tag"),
    "a bad date": (MODEL + "  engine: {args: {a: 2026-13-45}}\n", "line 3"),
    "unknown field": (
        "modelid: m\nspec: {}\n",
        "modelid (line 1): unknown field (did you mean model_id?); allowed: model_id",
    ),
    "unknown nested field": (
        MODEL + "  scaling:\n    min_replica: 1\n",
        "spec.scaling.min_replica (line 4): unknown field (did you mean min_replicas?); allowed: min_replicas, max",
    ),
    "camel case": ("modelId: m\nspec: {}\n", "modelId (line 1): unknown field (did you mean model_id?)"),
    "duplicate key": ("model_id: m\nmodel_id: n\nspec: {}\n", "model_id (line 2): given twice; first on line 1"),
    "nested duplicate": (
        MODEL + "  engine:\n    args:\n      a: 1\n      a: 2\n",
        "spec.engine.args.a (line 6): given twice; first on line 5",
    ),
    "merged text": ("model_id: m\nspec: {}\n<<: [1]\n", "<< (line 3): got no mapping; expected a mapping"),
    "merged twice": ("model_id: m\n<<: {}\n<<: {}\n", "<< (line 3): given twice; first on line 2"),
    "merged field": ("model_id: m\nspec: {}\n<<: {label: {}}\n", "label (line 3): unknown field"),
    "merged into itself": ("model_id: m\nspec: &s\n  <<: *s\n", "too deep"),
    "a quoted merge key": ('model_id: m\nspec: {}\n"<<": {labels: {}}\n', "<< (line 3): unknown field"),
    "half a character": (
        'model_id: m\nspec: {}\ncard: {display_name: "\\ud83e"}\n',
        "card.display_name (line 3): got '\\ud83e', which is half of a surrogate pair",
    ),
    "half a character in a key": (
        'model_id: m\nspec: {}\nlabels: {"\\udd16": x}\n',
        "labels (line 3): got the key '\\udd16', which is half of a surrogate pair",
    ),
    "key that is a list": ("? [a]\n: 1\nmodel_id: m\n", "line 1: got a key that is not a plain word"),
    "no value": ("model_id: m\nspec:\n", "spec (line 2): got nothing; give it a value, or leave the field out"),
    "number for text": ("model_id: 7\nspec: {}\n", "model_id (line 1): got 7; expected text; put it in quotes"),
    "date for text": ("model_id: 2026-01-01\nspec: {}\n", "model_id (line 1): got 2026-01-01; expected text"),
    "yes for text": ("model_id: m\nspec: {}\nlabels: {a: yes}\n", 'labels["a"] (line 3): got yes; expected text'),
    "text for number": (MODEL + '  scaling: {min_replicas: "1"}\n', "got '1'; expected a whole number"),
    "true for number": (MODEL + "  scaling: {min_replicas: true}\n", "got true; expected a whole number"),
    "fraction": (MODEL + "  scaling: {min_replicas: 1.5}\n", "got 1.5; expected a whole number"),
    "too many bits": (MODEL + "  scaling: {min_replicas: 3000000000}\n", "expected a whole number of 32 bits"),
    "text for a double": (MODEL + "  resources: {cpus: two}\n", "got 'two'; expected a number"),
    "not a number": (MODEL + "  resources: {cpus: .nan}\n", "spec.resources.cpus (line 3)"),
    "text for a mapping": (
        MODEL + "  scaling: many\n",
        "spec.scaling (line 3): got 'many'; expected a mapping with min",
    ),
    "list for a mapping": (
        MODEL + "  engine: {args: [a]}\n",
        "spec.engine.args (line 3): got a list; expected a mapping",
    ),
    "text for a list": (
        "model_id: m\nspec: {}\ncard: {tags: small}\n",
        "card.tags (line 3): got 'small'; expected a list",
    ),
    "number in a list": (
        "model_id: m\nspec: {}\ncard: {tags: [small, 7]}\n",
        "card.tags[1] (line 3): got 7; expected text",
    ),
    "unknown enum": (
        MODEL + "  engine: {kind: VLM}\n",
        "spec.engine.kind (line 3): got 'VLM'; expected one of VLLM, SIMULATED (did you mean VLLM?)",
    ),
    "enum by number": (MODEL + "  engine: {kind: 1}\n", "got 1; expected one of VLLM, SIMULATED"),
    "unspecified enum": (MODEL + "  engine: {kind: KIND_UNSPECIFIED}\n", "expected one of VLLM, SIMULATED"),
    "bad duration": (MODEL + "  scaling: {upscale_delay: 5 parsecs}\n", "expected a duration such as 300s, 5m"),
    "negative duration": (MODEL + "  scaling: {upscale_delay: -5s}\n", "expected a duration"),
    "endless duration": (MODEL + "  scaling: {upscale_delay: .inf}\n", "expected a duration"),
    "duration beyond protobuf": (MODEL + "  scaling: {upscale_delay: 1.0e+300}\n", "expected a duration"),
    "octal for text": (MODEL + "  source: {revision: 0123}\n", "got 0123; expected text; put it in quotes"),
    "octal in a label": ("model_id: m\nspec: {}\nlabels: {a: 0123}\n", "got 0123; expected text; put it in quotes"),
    "fraction in a label": ("model_id: m\nspec: {}\nlabels: {a: 1.10}\n", "got 1.10; expected text"),
    "base 60 in a tag": ("model_id: m\nspec: {}\ncard: {tags: [1:30]}\n", "got 1:30; expected text"),
    "octal for an argument of text": (
        MODEL + "  engine: {args: {code-revision: 0123}}\n",
        "spec.engine.args.code-revision (line 3): got 0123; expected text; put it in quotes",
    ),
    "on for an argument of text": (MODEL + "  engine: {args: {tool_call_parser: on}}\n", "got on; expected text"),
    "number in an argument of texts": (
        MODEL + "  engine: {args: {ignore_patterns: [1.10]}}\n",
        "got 1.10; expected te",
    ),
    "octal argument": (
        MODEL + "  engine: {args: {a: {revision: 0123}}}\n",
        "args.a.revision (line 3): got 0123; expected a decimal number such as 83, or text in quotes",
    ),
    "base 60 argument": (MODEL + "  engine: {args: {a: [1:30]}}\n", "got 1:30; expected a decimal number such as 90"),
    "underscored argument": (
        MODEL + "  engine: {args: {a: 12_000}}\n",
        "got 12_000; expected a decimal number such as",
    ),
    "hexadecimal argument": (MODEL + "  engine: {args: {a: 0x10}}\n", "got 0x10; expected a decimal number such as 16"),
    "endless hexadecimal argument": (
        MODEL + f"  engine: {{args: {{a: 0x{'f' * 6000}}}}}\n",
        "expected a decimal number, or text in quotes",
    ),
    "octal field": (MODEL + "  scaling: {max_replicas: 010}\n", "got 010; expected a decimal number such as 8"),
    "base 60 duration": (
        MODEL + "  scaling: {upscale_delay: 1:30}\n",
        "got 1:30; expected a decimal number such as 90",
    ),
    "date in args": (MODEL + "  engine: {args: {since: 2026-01-01}}\n", "put dates in quotes"),
    "huge integer in args": (MODEL + f"  engine: {{args: {{seed: {2**60}}}}}\n", "at most 2**53"),
    "max below min": (
        MODEL + "  scaling:\n    min_replicas: 3\n    max_replicas: 1\n",
        "spec.scaling (line 3): max_replicas must be at least min_replicas",
    ),
    "negative replicas": (
        MODEL + "  scaling:\n    min_replicas: -1\n",
        "spec.scaling.min_replicas (line 4): got -1: must be",
    ),
    "empty id": ('model_id: ""\nspec: {engine: {kind: VLLM}}\n', "model_id (line 1): got ''"),
    "over-long id": (f"model_id: {'a' * 64}\nspec: {{engine: {{kind: VLLM}}}}\n", "model_id (line 1): got 'aaaa"),
    "no spec": ("model_id: m\n", "spec: value is required"),
    "relative path to nowhere": (MODEL + "  source: {uri: org/name}\n", "there is no such path"),
    "unknown scheme": (MODEL + "  source: {uri: ftp://x/y}\n", "spec.source.uri (line 3): got 'ftp://x/y'"),
    "alias of itself": ("model_id: m\nspec: &a\n  engine: {args: {x: *a}}\n", "too deep"),
    "aliases of aliases": (
        "labels: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"l{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "too large",
    ),
    "nested a little too deep": (MODEL + f"  engine: {{args: {{a: {'[' * 40}{']' * 40}}}}}\n", "more than 32 levels"),
    "deep nesting": ("model_id: " + "[" * 5000 + "]" * 5000, "too deep"),
    "a file that is no spec": (b"#" * ((1 << 20) + 1), "larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_invalid_files_are_rejected_with_place_and_allowed_values(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    message = refusal(tmp_path, text)
    assert expected in message
    assert message.startswith(str(tmp_path / "model.yaml"))


def test_all_problems_are_reported_together_by_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        specs.load_model_request(write(tmp_path, "modelid: 7\nlabels: [a]\nspec:\n  engine: {kind: x}\n"))
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["modelid (line 1)", "labels (line 2)", "spec.engine.kind (line 4)"]


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="No such file"):
        specs.load_model_request(tmp_path / "none.yaml")
    with pytest.raises(InvalidSpec, match="Is a directory"):
        specs.load_model_request(tmp_path)


def test_a_source_in_a_file_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "adapter.yaml"
    path.write_text("parent: models/m\nadapter_id: a\nsource: {uri: file:./lora}\n")
    assert specs.load_adapter_request(path).source.uri == (tmp_path / "lora").as_uri()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("7", 7),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert specs.parse_duration(text).ToTimedelta().total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-1s", "1s1h", "1e3", "1/3", "½s", "1.5m", " 5s"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        specs.parse_duration(text)


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "with space").mkdir()
    assert specs.source_uri("hf://org/name", tmp_path) == "hf://org/name"
    assert specs.source_uri("file:///a/b", tmp_path) == "file:///a/b"
    assert specs.source_uri("with space", tmp_path) == f"file://{tmp_path}/with space"
    assert specs.source_uri("file:../x", tmp_path / "y") == (tmp_path / "x").as_uri()
    assert specs.source_uri("/not/here", tmp_path) == "file:///not/here"
    assert specs.source_uri("~/m", tmp_path) == (tmp_path / "m").as_uri()
    with pytest.raises(ValueError, match="hf://org/name"):
        specs.source_uri("org/name", tmp_path)
    with pytest.raises(ValueError, match="must not hold '%'"):
        specs.source_uri("/a%20b", tmp_path)


def test_a_mapping_is_read_as_strictly_as_a_file() -> None:
    spec = specs.to_message({"engine": {"kind": "simulated"}, "scaling": {"upscale_delay": 3}}, ModelSpec(), "spec")
    assert spec.engine.kind == Engine.KIND_SIMULATED
    assert spec.scaling.upscale_delay.seconds == 3
    with pytest.raises(InvalidSpec) as caught:
        specs.to_message({"engin": {}}, ModelSpec(), "spec")
    assert "spec.engin: unknown field (did you mean engine?)" in str(caught.value)


def test_a_message_is_copied_not_shared() -> None:
    given = ModelSpec(source=Source(uri="hf://a/b"))
    copy = specs.to_message(given, ModelSpec(), "spec")
    given.source.uri = "hf://c/d"
    assert copy.source.uri == "hf://a/b"


def test_a_message_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="got a RegisterModelRequest, expected ModelSpec"):
        specs.to_message(RegisterModelRequest(), ModelSpec(), "spec")


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a=1", ("a", 1)),
        ("a=true", ("a", True)),
        ("a=x=y", ("a", "x=y")),
        ("a=", ("a", "")),
        ("a=[1, b]", ("a", [1, "b"])),
        ("a=.9", ("a", 0.9)),
        ('a="0123"', ("a", "0123")),
        ("code_revision=0123", ("code_revision", "0123")),
        ("tokenizer-revision=1.10", ("tokenizer-revision", "1.10")),
        ("code_revision=2026-13-45", ("code_revision", "2026-13-45")),
        ("tool_call_parser=on", ("tool_call_parser", "on")),
        ('code_revision="0123"', ("code_revision", "0123")),
        ("ignore_patterns=[a, b]", ("ignore_patterns", ["a", "b"])),
    ],
)
def test_engine_arguments(text: str, pair: tuple[str, object]) -> None:
    assert specs.parse_argument(text) == pair


@pytest.mark.parametrize(
    "text", ["a", "=1", "a={", "a=" + "[" * 5000, "a=0123", "a=1:30", "a=12_000", "a=[0123]", "a={revision: 0123}"]
)
def test_invalid_engine_arguments(text: str) -> None:
    with pytest.raises(ValueError, match=r"got"):
        specs.parse_argument(text)
