"""Links in the cache of a model hub's client: which are followed, and which are not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.adapters import base_weights
from controlplane.adapters.adapter_files import opened
from tests.adapter_directories import BASE_SHAPES, write_adapter, write_base

WEIGHTS = "adapter_model.safetensors"


def hub_snapshot(cache: Path, directory: Path, below: str = ".") -> Path:
    """The files of `directory` as the hub's client keeps them. Returns the snapshot's directory."""
    repository = cache / "models--org--name"
    snapshot, blobs = repository / "snapshots" / ("c0ffee" * 6) / below, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in directory.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return hub_snapshot(tmp_path / "hub", write_adapter(tmp_path / "a", fill=b"\7"))


def content_of(directory: Path, allowed: Path = Path("/")) -> bytes:
    with opened(directory, WEIGHTS, lambda path: path.is_relative_to(allowed)) as file:
        return file.read()


def refusal(directory: Path, allowed: Path = Path("/")) -> errors.DomainError:
    with pytest.raises(errors.InvalidArgument) as caught:
        content_of(directory, allowed)
    return caught.value


@pytest.mark.parametrize("below", [".", "checkpoints/last"])
def test_a_link_to_a_blob_of_the_same_repository_is_followed(tmp_path: Path, below: str) -> None:
    expected = content_of(write_adapter(tmp_path / "plain"))
    directory = hub_snapshot(tmp_path / "hub", write_adapter(tmp_path / "a"), below)
    assert content_of(directory) == expected
    (tmp_path / "cache").symlink_to(tmp_path / "hub")
    assert content_of(tmp_path / "cache" / directory.relative_to(tmp_path / "hub")) == expected


@pytest.mark.parametrize(
    "target",
    [
        "../../../models--org--other/blobs/x",
        "../../blobs",
        "../../blobs/..",
        "../../blobs/a/b",
        "../x",
        "/etc/hostname",
    ],
)
def test_a_link_to_another_place_is_not_followed(snapshot: Path, target: str) -> None:
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(target)
    error = refusal(snapshot)
    assert error.reason == errors.Reason.ADAPTER_SOURCE_UNREADABLE
    assert "a model hub's cache only" in error.message


@pytest.mark.parametrize("linked", ["blob", "blobs", "snapshot"])
def test_links_further_on_are_not_followed(snapshot: Path, tmp_path: Path, linked: str) -> None:
    places = {"blob": (snapshot / WEIGHTS).resolve(), "blobs": snapshot.parents[1] / "blobs", "snapshot": snapshot}
    places[linked].rename(tmp_path / "elsewhere")
    places[linked].symlink_to(tmp_path / "elsewhere")
    assert "a model hub's cache only" in refusal(snapshot).message


def test_a_link_outside_a_hub_cache_is_not_followed_even_to_something_named_blobs(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "snapshots" / "c0ffee")
    (tmp_path / "blobs").mkdir()
    (directory / WEIGHTS).rename(tmp_path / "blobs" / "x")
    (directory / WEIGHTS).symlink_to("../../blobs/x")
    assert "a model hub's cache only" in refusal(directory).message


def test_a_link_does_not_lead_out_of_allowed_places(snapshot: Path) -> None:
    content_of(snapshot, snapshot.parents[1])
    assert "at an allowed place" in refusal(snapshot, snapshot).message


@pytest.mark.timeout(10)
def test_a_blob_that_is_a_pipe_is_refused_without_waiting(snapshot: Path) -> None:
    blob = (snapshot / WEIGHTS).resolve()
    blob.unlink()
    os.mkfifo(blob)
    assert "not a regular file" in refusal(snapshot).message


def test_a_link_that_changes_while_its_blob_is_read_is_noticed(snapshot: Path) -> None:
    other = snapshot.parents[1] / "blobs" / "other"
    other.write_bytes((snapshot / WEIGHTS).read_bytes())
    with (  # noqa: PT012  # the end of the inner block is what raises
        pytest.raises(errors.Aborted) as caught,
        opened(snapshot, WEIGHTS, lambda _: True),
    ):
        (snapshot / WEIGHTS).unlink()
        (snapshot / WEIGHTS).symlink_to("../../blobs/other")
    assert caught.value.reason == errors.Reason.ADAPTER_FILES_CHANGED


def test_a_whole_repository_is_told_to_be_one(snapshot: Path) -> None:
    assert "give the directory of a commit" in refusal(snapshot.parents[1]).message


def test_the_weights_of_a_base_are_found(tmp_path: Path) -> None:
    directory = hub_snapshot(tmp_path / "hub", write_base(tmp_path / "base"))
    tensors = base_weights.read(model_pb2.Source(uri=f"file://{directory}"))
    assert tensors is not None
    assert tensors.keys() == BASE_SHAPES.keys()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json", "s1.safetensors"])
def test_a_pipe_in_a_base_is_not_waited_for(tmp_path: Path, file: str) -> None:
    base = write_base(tmp_path / "base")
    if file == "s1.safetensors":
        (base / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{file}"}}}}')
    (base / file).unlink(missing_ok=True)
    os.mkfifo(base / file)
    assert base_weights.read(model_pb2.Source(uri=f"file://{base}")) is None
