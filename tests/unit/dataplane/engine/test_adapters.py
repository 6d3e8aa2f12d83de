"""Adapter files are what was registered, or they are not served."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from broadsheet.v1 import adapter_pb2, snapshot_pb2
from dataplane.engine.adapters import AdapterCache
from dataplane.errors import AdapterError
from protocol.adapters.adapter_digest import weights_digest
from tests.adapter_directories import adapter_config, lora_shapes, safetensors_bytes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = {
    CONFIG: json.dumps(adapter_config()).encode(),
    WEIGHTS: safetensors_bytes(lora_shapes(), fill=b"\7"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "a source"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> AdapterCache:
    return AdapterCache(tmp_path / "cache")


def entry(source: Path, files: Mapping[str, bytes] = FILES) -> snapshot_pb2.AdapterEntry:
    made = snapshot_pb2.AdapterEntry(name="models/m/adapters/a")
    made.revision.source.uri = f"file://{source}"
    for name, content in files.items():
        file = adapter_pb2.AdapterFile(path=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        made.revision.weights.files.append(file)
    made.revision.weights.digest = weights_digest(made.revision.weights.files)
    return made


async def test_files_are_copied_and_the_copy_outlives_the_source(cache: AdapterCache, source: Path) -> None:
    adapter = entry(source)
    path = await cache.ensure(adapter)
    (source / "adapter_model.safetensors").write_bytes(b"other weights")
    assert await cache.ensure(adapter) == path
    assert {file.name: file.read_bytes() for file in path.iterdir()} == FILES


async def test_forgotten_adapter_is_fetched_again(cache: AdapterCache, source: Path) -> None:
    adapter = entry(source)
    path = await cache.ensure(adapter)
    await cache.forget(adapter.revision.weights.digest)
    assert not path.exists()
    assert await cache.ensure(adapter) == path
    assert path.is_dir()


@pytest.mark.parametrize("change", [b"other weight" * 600, FILES["adapter_model.safetensors"][:-1], b""])
async def test_changed_file_is_refused_and_leaves_nothing(
    cache: AdapterCache, source: Path, tmp_path: Path, change: bytes
) -> None:
    (source / "adapter_model.safetensors").write_bytes(change)
    with pytest.raises(AdapterError, match="SHA-256") as caught:
        await cache.ensure(entry(source))
    assert caught.value.reason == "ADAPTER_DIGEST_MISMATCH"
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (WEIGHTS, safetensors_bytes(lora_shapes(), fill=b"\xff"), "lora_A.weight': a value is not finite"),
        (WEIGHTS, b"weights" * 1000, "the header claims"),
        (WEIGHTS, b"", "truncated"),
        (CONFIG, json.dumps(adapter_config(lora_alpha=float("nan"))).encode(), "lora_alpha is nan"),
        (CONFIG, json.dumps(adapter_config(alpha_pattern={"q_proj": float("inf")})).encode(), "alpha_pattern"),
        (CONFIG, b"[]", "not a JSON object"),
        (CONFIG, b"\xff", "not JSON"),
        (CONFIG, b"[" * 100_000, "not JSON"),
        (CONFIG, b" " * 2_000_000, "larger than"),
    ],
)
async def test_registered_files_that_would_harm_the_engine_are_not_served(
    cache: AdapterCache, source: Path, tmp_path: Path, file: str, content: bytes, words: str
) -> None:
    (source / file).write_bytes(content)
    with pytest.raises(AdapterError, match=words) as caught:
        await cache.ensure(entry(source, {**FILES, file: content}))
    assert caught.value.reason == "ADAPTER_FILES_INVALID"
    assert list((tmp_path / "cache").iterdir()) == []


async def test_files_in_a_hub_cache_are_links_to_its_blobs(cache: AdapterCache, source: Path) -> None:
    snapshot = source.parent / "models--org--name" / "snapshots" / "c0ffee"
    blobs = snapshot.parents[1] / "blobs"
    for directory in (snapshot, blobs):
        directory.mkdir(parents=True)
    for name, content in FILES.items():
        (blobs / name).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    path = await cache.ensure(entry(snapshot))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == FILES
    assert not any(file.is_symlink() for file in path.iterdir())


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
async def test_special_files_are_refused_without_waiting(cache: AdapterCache, source: Path, kind: str) -> None:
    (source / WEIGHTS).unlink()
    if kind == "pipe":
        os.mkfifo(source / WEIGHTS)
    elif kind == "device":
        (source / WEIGHTS).symlink_to("/dev/zero")
    else:
        (source / WEIGHTS).mkdir()
    with pytest.raises(AdapterError, match="not a regular file"):
        await cache.ensure(entry(source))


async def test_no_more_is_read_than_was_registered(cache: AdapterCache, source: Path) -> None:
    with (source / WEIGHTS).open("ab") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(AdapterError, match="got more than the") as caught:
        await cache.ensure(entry(source))
    assert caught.value.reason == "ADAPTER_DIGEST_MISMATCH"


async def test_missing_file_and_missing_directory_have_their_own_messages(cache: AdapterCache, source: Path) -> None:
    (source / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"adapter_config\.json: no such file") as caught:
        await cache.ensure(entry(source))
    assert caught.value.reason == "ADAPTER_SOURCE_NOT_FOUND"
    with pytest.raises(AdapterError, match="no such directory"):
        await cache.ensure(entry(source / "nowhere"))


async def test_path_out_of_the_source_is_refused(cache: AdapterCache, source: Path) -> None:
    for path in ("../outside", "/etc/hostname"):
        adapter = entry(source)
        adapter.revision.weights.files[0].path = path
        adapter.revision.weights.digest = weights_digest(adapter.revision.weights.files)
        with pytest.raises(AdapterError, match="not a path below"):
            await cache.ensure(adapter)


async def test_list_of_files_must_have_the_digest_of_the_entry(cache: AdapterCache, source: Path) -> None:
    adapter = entry(source)
    adapter.revision.weights.files[0].size_bytes += 1
    with pytest.raises(AdapterError) as caught:
        await cache.ensure(adapter)
    assert caught.value.reason == "ADAPTER_DIGEST_MISMATCH"


async def test_source_of_another_scheme_is_refused(cache: AdapterCache, source: Path) -> None:
    adapter = entry(source)
    adapter.revision.source.uri = "s3://bucket/adapter"
    with pytest.raises(AdapterError, match="file:///"):
        await cache.ensure(adapter)
