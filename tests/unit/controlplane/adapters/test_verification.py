"""Adapters on disk: what is read, what is refused, and files that change meanwhile."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.adapters import adapter_files
from controlplane.adapters.verification import AdapterVerifier
from protocol.adapters.adapter_digest import weights_digest
from tests.adapter_directories import BASE_SHAPES, lora_shapes, safetensors_bytes, write_adapter, write_base

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
async def verifier() -> AsyncIterator[AdapterVerifier]:
    made = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=())
    yield made
    made.close()


def source(path: Path | str) -> model_pb2.Source:
    return model_pb2.Source(uri=f"file://{path}")


def spec(base: Path | None = None, *, rank_max: int = 16, **args: Any) -> model_pb2.ModelSpec:
    """The spec of a base model, with arguments for its engine."""
    made = model_pb2.ModelSpec(
        source=source(base) if base is not None else None, lora=model_pb2.Lora(max_rank=rank_max)
    )
    made.engine.args.update(args)
    return made


async def refusal(
    verifier: AdapterVerifier, path: Path, base: Path | None = None, rank_max: int = 16, **args: Any
) -> errors.DomainError:
    with pytest.raises(errors.DomainError) as caught:
        await verifier.verify(source(path), spec(base, rank_max=rank_max, **args))
    assert [violation.field for violation in caught.value.violations] == ["source.uri"]
    return caught.value


async def test_weights_describe_the_files(verifier: AdapterVerifier, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path, rank=8, fill=b"\7")
    weights = await verifier.verify(source(directory), spec())
    assert [file.path for file in weights.files] == [CONFIG, WEIGHTS]
    for file in weights.files:
        content = (directory / file.path).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).digest())
    assert weights.size_bytes == sum(file.size_bytes for file in weights.files)
    assert weights.digest == weights_digest(weights.files)
    assert (weights.rank, list(weights.target_modules)) == (8, ["q_proj", "v_proj"])


async def test_other_files_in_the_directory_are_ignored(verifier: AdapterVerifier, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path)
    before = await verifier.verify(source(directory), spec())
    (directory / "README.md").write_text("x")
    (directory / "optimizer.pt").write_bytes(b"x" * 2_000_000)
    assert await verifier.verify(source(directory), spec()) == before


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
async def test_a_changed_byte_changes_the_digest(verifier: AdapterVerifier, tmp_path: Path, file: str) -> None:
    directory = write_adapter(tmp_path)
    before = await verifier.verify(source(directory), spec())
    content = (directory / file).read_bytes()
    changed = content[:-1] + b"\1" if file == WEIGHTS else content + b" "
    (directory / file).write_bytes(changed)
    assert (await verifier.verify(source(directory), spec())).digest != before.digest


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
async def test_missing_file(verifier: AdapterVerifier, tmp_path: Path, missing: str) -> None:
    (write_adapter(tmp_path) / missing).unlink()
    error = await refusal(verifier, tmp_path)
    assert error.reason == errors.Reason.ADAPTER_SOURCE_MISSING
    assert missing in error.message


async def test_missing_directory_and_file_for_directory(verifier: AdapterVerifier, tmp_path: Path) -> None:
    assert (await refusal(verifier, tmp_path / "nowhere")).reason == errors.Reason.ADAPTER_SOURCE_MISSING
    (tmp_path / "file").touch()
    assert (await refusal(verifier, tmp_path / "file")).reason == errors.Reason.ADAPTER_SOURCE_MISSING


async def test_pickled_weights_are_refused_by_name(verifier: AdapterVerifier, tmp_path: Path) -> None:
    (write_adapter(tmp_path) / WEIGHTS).rename(tmp_path / "adapter_model.bin")
    assert "adapter_model.bin is not taken" in (await refusal(verifier, tmp_path)).message


@pytest.mark.parametrize("linked", [CONFIG, WEIGHTS])
async def test_links_are_not_followed(verifier: AdapterVerifier, tmp_path: Path, linked: str) -> None:
    directory = write_adapter(tmp_path / "a")
    (directory / linked).rename(tmp_path / "elsewhere")
    (directory / linked).symlink_to(tmp_path / "elsewhere")
    error = await refusal(verifier, directory)
    assert error.reason == errors.Reason.ADAPTER_SOURCE_UNREADABLE
    assert "symbolic link" in error.message


@pytest.mark.parametrize("kind", ["pipe", "directory"])
async def test_special_files_are_refused_without_waiting(verifier: AdapterVerifier, tmp_path: Path, kind: str) -> None:
    (write_adapter(tmp_path) / WEIGHTS).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / WEIGHTS)
    else:
        (tmp_path / WEIGHTS).mkdir()
    error = await refusal(verifier, tmp_path)
    assert error.reason == errors.Reason.ADAPTER_SOURCE_UNREADABLE
    assert "not a regular file" in error.message


async def test_unreadable_file(verifier: AdapterVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions are not checked for root, and tests may run as root.
    directory = write_adapter(tmp_path)
    real_open = os.open

    def refuse(path: str | os.PathLike[str], *args: int, **kwargs: int) -> int:
        if Path(path).name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    error = await refusal(verifier, directory)
    assert error.reason == errors.Reason.ADAPTER_SOURCE_UNREADABLE
    assert "Permission denied" in error.message


async def test_path_that_is_too_long(verifier: AdapterVerifier, tmp_path: Path) -> None:
    error = await refusal(verifier, tmp_path / ("x" * 300))
    assert error.reason == errors.Reason.ADAPTER_SOURCE_UNREADABLE


@pytest.mark.parametrize("cut", [1, 100])
async def test_truncated_weights(verifier: AdapterVerifier, tmp_path: Path, cut: int) -> None:
    weights = write_adapter(tmp_path) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-cut])
    error = await refusal(verifier, tmp_path)
    assert error.reason == errors.Reason.ADAPTER_FILES_INVALID
    assert "truncated" in error.message


async def test_weights_that_are_not_finite(verifier: AdapterVerifier, tmp_path: Path) -> None:
    weights = write_adapter(tmp_path) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", math.nan))
    error = await refusal(verifier, tmp_path)
    assert error.reason == errors.Reason.ADAPTER_FILES_INVALID
    assert "layers.1.self_attn.v_proj.lora_B.weight': a value is not finite" in error.message


async def test_empty_files(verifier: AdapterVerifier, tmp_path: Path) -> None:
    (write_adapter(tmp_path) / WEIGHTS).write_bytes(b"")
    assert (await refusal(verifier, tmp_path)).reason == errors.Reason.ADAPTER_FILES_INVALID
    (tmp_path / CONFIG).write_bytes(b"")
    assert (await refusal(verifier, tmp_path)).reason == errors.Reason.ADAPTER_FILES_INVALID


async def test_oversized_config(verifier: AdapterVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_files, "CONFIG_BYTES_MAX", 1000)
    write_adapter(tmp_path, padding="x" * 1000)
    assert (await refusal(verifier, tmp_path)).reason == errors.Reason.ADAPTER_FILES_INVALID


async def test_adapter_beyond_the_size_limit(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path)
    size = sum(path.stat().st_size for path in directory.iterdir())
    for limit, allowed in ((size, True), (size - 1, False)):
        verifier = AdapterVerifier(size_bytes_max=limit, allowed_sources=())
        if allowed:
            await verifier.verify(source(directory), spec())
        else:
            assert (await refusal(verifier, directory)).reason == errors.Reason.ADAPTER_TOO_LARGE
        verifier.close()


@pytest.mark.parametrize(("rank", "stated_in"), [(32, "r"), (4, "pattern")])
async def test_a_rank_that_is_too_high(verifier: AdapterVerifier, tmp_path: Path, rank: int, stated_in: str) -> None:
    # The pattern is of no module here, but the engine counts it too.
    write_adapter(tmp_path, rank=rank, rank_pattern={"o_proj": 32} if stated_in == "pattern" else {})
    error = await refusal(verifier, tmp_path)
    assert error.reason == errors.Reason.ADAPTER_RANK_TOO_HIGH
    assert "rank 32" in error.message
    await verifier.verify(source(tmp_path), spec(rank_max=32))


async def test_adapter_is_compared_with_its_base(verifier: AdapterVerifier, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", dtype="BF16", item_bytes=2)
    fits = write_adapter(tmp_path / "fits")
    other = write_adapter(tmp_path / "other", shapes=lora_shapes(modules={"self_attn.q_proj": (32, 32)}))
    await verifier.verify(source(fits), spec(base))
    assert (await refusal(verifier, other, base)).reason == errors.Reason.ADAPTER_BASE_MISMATCH
    await verifier.verify(source(other), spec())


@pytest.mark.parametrize(
    ("base_config", "taken"),
    [
        ('{"architectures": ["Qwen3_5ForCausalLM"]}', True),
        ('{"architectures": ["LlamaForCausalLM"]}', False),
        ('{"architectures": [1]}', False),
        ('{"architectures": 1}', False),
        ("[]", False),
        ("{", False),
        (None, False),
    ],
)
async def test_the_architecture_of_the_base_decides_how_it_is_named(
    verifier: AdapterVerifier, tmp_path: Path, base_config: str | None, taken: bool
) -> None:
    base = write_base(tmp_path / "base")
    if base_config is not None:
        (base / "config.json").write_text(base_config)
    shapes = {
        name.replace("model.layers", "model.language_model.layers"): shape for name, shape in lora_shapes().items()
    }
    adapter = write_adapter(tmp_path / "adapter", shapes=shapes)
    if taken:
        await verifier.verify(source(adapter), spec(base))
    else:
        assert (await refusal(verifier, adapter, base)).reason == errors.Reason.ADAPTER_BASE_MISMATCH


async def test_a_classification_head_is_taken_where_the_base_is_served_for_classification(
    verifier: AdapterVerifier, tmp_path: Path
) -> None:
    shapes = {**lora_shapes(), "base_model.model.score.weight": (2, 16)}
    adapter = write_adapter(tmp_path / "lora", shapes=shapes, modules_to_save=["classifier", "score"])
    base = write_base(tmp_path / "base")
    (base / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 16}')
    refused = await refusal(verifier, adapter, base)
    assert refused.reason == errors.Reason.ADAPTER_UNSUPPORTED
    assert "nothing says that its base is served for classification" in refused.message
    weights = await verifier.verify(source(adapter), spec(base, convert="classify"))
    assert (weights.rank, list(weights.target_modules)) == (4, ["q_proj", "v_proj"])
    (base / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"], "hidden_size": 16}')
    assert await verifier.verify(source(adapter), spec(base)) == weights
    assert (await refusal(verifier, adapter, base, runner="generate")).reason == errors.Reason.ADAPTER_UNSUPPORTED


async def test_sharded_base(verifier: AdapterVerifier, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    names = list(BASE_SHAPES)
    weight_map: dict[str, str] = {}
    for shard, part in (("s1.safetensors", names[:3]), ("s2.safetensors", names[3:])):
        (base / shard).write_bytes(safetensors_bytes({name: BASE_SHAPES[name] for name in part}))
        weight_map |= dict.fromkeys(part, shard)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    await verifier.verify(source(write_adapter(tmp_path / "fits")), spec(base))
    deeper = write_adapter(tmp_path / "deeper", shapes=lora_shapes(layers=3))
    assert (await refusal(verifier, deeper, base)).reason == errors.Reason.ADAPTER_BASE_MISMATCH


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"model.safetensors": b"damaged"},
        {"model.safetensors.index.json": b"[]"},
        {"model.safetensors.index.json": b'{"weight_map": {"a": "../../outside"}}'},
        {"model.safetensors.index.json": b'{"weight_map": {"a": "missing.safetensors"}}'},
    ],
)
async def test_a_base_that_cannot_be_read_is_not_compared(
    verifier: AdapterVerifier, tmp_path: Path, files: dict[str, bytes]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name, content in files.items():
        (base / name).write_bytes(content)
    adapter = write_adapter(tmp_path / "adapter")
    await verifier.verify(source(adapter), spec(base))
    of_a_hub = spec()
    of_a_hub.source.uri = "hf://org/name"
    await verifier.verify(source(adapter), of_a_hub)


@pytest.mark.parametrize("change", ["append", "replace", "remove", "swap directories"])
async def test_a_file_that_changes_while_it_is_read(
    verifier: AdapterVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    directory = write_adapter(tmp_path / "a")
    path = directory / WEIGHTS
    real_sha256 = hashlib.sha256

    def change_then_hash(content: bytes = b"") -> object:
        # Called after the check of the header and before the hash of the file.
        if change == "append":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "replace":
            (tmp_path / "new").write_bytes(path.read_bytes())
            (tmp_path / "new").rename(path)
        elif change == "remove":
            path.unlink(missing_ok=True)
        elif not (tmp_path / "old").exists():
            # The open files do not change, but the path leads to others.
            directory.rename(tmp_path / "old")
            write_adapter(directory)
        return real_sha256(content)

    monkeypatch.setattr(hashlib, "sha256", change_then_hash)
    with pytest.raises(errors.Aborted) as caught:
        await verifier.verify(source(directory), spec())
    assert caught.value.reason == errors.Reason.ADAPTER_FILES_CHANGED


@pytest.mark.parametrize("uri", ["hf://org/name", "s3://bucket/x", "file://relative", ""])
async def test_sources_of_other_kinds(verifier: AdapterVerifier, uri: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await verifier.verify(model_pb2.Source(uri=uri), spec())
    assert caught.value.reason == errors.Reason.UNSUPPORTED_SOURCE


async def test_sources_at_places_that_are_not_allowed(tmp_path: Path) -> None:
    allowed, outside = write_adapter(tmp_path / "allowed" / "a"), write_adapter(tmp_path / "allowed-not" / "a")
    (tmp_path / "allowed" / "link").symlink_to(outside)
    verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=(f"file://{tmp_path}/allowed",))
    await verifier.verify(source(allowed), spec())
    for path in (outside, tmp_path / "allowed" / "link"):
        assert (await refusal(verifier, path)).reason == errors.Reason.SOURCE_NOT_ALLOWED
    with pytest.raises(errors.InvalidArgument, match="must not have"):
        await verifier.verify(source(f"{tmp_path}/allowed/../allowed-not/a"), spec())
    verifier.close()


async def test_links_of_a_hub_cache_are_followed_to_allowed_places_only(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    write_adapter(blobs, rank=32)
    snapshot = tmp_path / "models--org--name" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    for allowed, reason in (
        (tmp_path, errors.Reason.ADAPTER_RANK_TOO_HIGH),  # so it was read
        (snapshot, errors.Reason.ADAPTER_SOURCE_UNREADABLE),
    ):
        verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=(f"file://{allowed}",))
        assert (await refusal(verifier, snapshot)).reason == reason
        verifier.close()


async def test_files_are_read_off_the_event_loop(
    verifier: AdapterVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    real_sha256 = hashlib.sha256

    def note_thread(content: bytes = b"") -> object:
        threads.append(threading.current_thread())
        return real_sha256(content)

    monkeypatch.setattr(hashlib, "sha256", note_thread)
    await verifier.verify(source(write_adapter(tmp_path)), spec())
    assert threads
    assert threading.main_thread() not in threads
