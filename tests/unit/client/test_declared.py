"""Resources that files, directories and standard input declare."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from broadsheet.errors import InvalidSpec
from broadsheet.specs import STDIN, load_model_request
from broadsheet.specs.declared import load_declared

SPEC = "model_id: {}\nspec: {{source: {{uri: 'hf://o/n'}}}}\n"


def names(*paths: Path) -> list[str]:
    return [resource.name for resource in load_declared(paths)]


def config_map(mount: Path, **files: str) -> Path:
    """A directory as Kubernetes mounts a ConfigMap: an older content may still be there."""
    for moment in ("..2026_11_28_09_00_00.1", "..2026_11_29_09_00_00.2"):
        for name, text in files.items():
            file = mount / moment / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    (mount / "..data").symlink_to("..2026_11_29_09_00_00.2")
    for name in {name.partition("__")[0] for name in files}:
        (mount / name).symlink_to(f"..data/{name}")
    return mount


def test_a_mounted_config_map_declares_each_resource_once(tmp_path: Path) -> None:
    files = {"a.yaml": SPEC.format("a"), "sub__b.yaml": SPEC.format("b")}
    assert names(config_map(tmp_path / "mount", **files)) == ["models/a", "models/b"]


def test_paths_in_a_config_map_are_relative_to_the_mount(tmp_path: Path) -> None:
    mount = config_map(tmp_path / "mount", **{"a.yaml": "model_id: a\nspec: {source: {uri: 'file:../weights'}}\n"})
    (declared,) = load_declared([mount])
    request = load_model_request(mount / "a.yaml")
    assert request == declared.request
    assert request.spec.source.uri == f"file://{tmp_path}/weights"


def test_a_file_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SPEC.format("a"))
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "elsewhere").symlink_to("/")
    assert names(tmp_path, tmp_path / "a.yaml", tmp_path) == ["models/a"]


def test_the_same_resource_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SPEC.format("a"))
    with pytest.raises(InvalidSpec, match="models/a is declared twice; first at"):
        names(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPEC.format("m") + "---\n---\n" + SPEC.format("n"), ["models/m", "models/n"]),
        ("---\n" + SPEC.format("m") + "---\n", ["models/m"]),
        (SPEC.format("m") + "---\n# nothing\n---\n...\n", ["models/m"]),
    ],
)
def test_empty_documents_are_passed_over(tmp_path: Path, text: str, expected: list[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert names(file) == expected


def test_a_document_that_says_null_declares_nothing_known(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("--- null\n")
    with pytest.raises(InvalidSpec, match="expected exactly one of model_id"):
        names(file)


def test_a_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = b"model_id: m\nspec: {source: {uri: 'file:weights'}}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    (declared,) = load_declared([STDIN, STDIN])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    request = load_model_request(STDIN)
    assert request == declared.request
    assert request.spec.source.uri == f"file://{tmp_path}/weights"


def test_files_that_declare_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`apply --prune` would delete everything."""
    empty, full = tmp_path / "empty.yaml", tmp_path / "full.yaml"
    empty.write_text("---\n")
    full.write_text(SPEC.format("m"))
    with pytest.raises(InvalidSpec, match="no file declares anything"):
        names(empty)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InvalidSpec, match="standard input is empty"):
        names(full, STDIN)


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidSpec, match="standard input is closed"):
        load_declared([STDIN])
