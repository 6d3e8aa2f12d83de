"""Verifies an adapter: from its source to the digest of weights that the engine can serve.

Nothing in the files is trusted. The checks, in order: the source is allowed; the files are regular
and small enough (`adapter_files.py`); the configuration can be served (`lora_config.py`); its rank
is one that the model serves; a classification head is one that the base can have
(`classification.py`); the other tensors are pairs of LoRA matrices (`lora_weights.py`); they fit
the base model, if its weights are at hand (`base_match.py`); and every value is finite
(`protocol.adapters.finite_weights`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broadsheet.v1 import adapter_pb2, model_pb2
from controlplane import errors
from controlplane.adapters import base_weights
from controlplane.adapters.adapter_files import config_bytes, hashed, opened, size_of, tensors_in
from controlplane.adapters.classification import architectures, base_head, generates
from controlplane.adapters.lora_config import parse_config
from controlplane.adapters.lora_weights import check_tensors
from controlplane.adapters.refusals import CONFIG_FILE, WEIGHTS_FILE, refused
from protocol import sources
from protocol.adapters.adapter_digest import weights_digest
from protocol.adapters.finite_weights import FiniteWeights
from protocol.validation import FieldViolation, shorten

THREADS = 4
"""Adapters verified at the same time; others wait. Reading is bound by the disk, so more threads
would not help."""


class AdapterVerifier:
    """Verifies adapters, in threads of its own."""

    def __init__(self, *, size_bytes_max: int, allowed_sources: Sequence[str]) -> None:
        """
        Args:
            size_bytes_max: Bytes of all files of an adapter together.
            allowed_sources: Prefixes of the URIs that adapters may have. Empty: any.
        """
        self._size_bytes_max = size_bytes_max
        self._allowed_sources = tuple(allowed_sources)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="adapter-verifier")

    def close(self) -> None:
        """End the threads. What they are reading is left unfinished."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def verify(self, source: model_pb2.Source, base: model_pb2.ModelSpec) -> adapter_pb2.AdapterWeights:
        """Read, check and hash the files of an adapter.

        Args:
            source: Where they are.
            base: The spec of the base model. Its weights are not compared if they cannot be read.

        Raises:
            errors.InvalidArgument: they cannot be read, or cannot be served.
            errors.Aborted: they changed meanwhile.
        """
        directory = self.directory_of(source)
        cancelled = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._verify, directory, base, cancelled)
        try:
            return await work
        finally:
            # The caller may be cancelled. A thread cannot be, but it checks this event.
            cancelled.set()

    def directory_of(self, source: model_pb2.Source) -> Path:
        """The directory that a source names.

        Raises:
            errors.InvalidArgument: sources of this kind, or at this place, are not allowed.
        """
        if not sources.is_file(source.uri):
            raise refused(
                errors.Reason.UNSUPPORTED_SOURCE,
                f"got {shorten(source.uri)}: adapters are taken from file:///absolute/directory only",
            )
        try:
            path = Path(sources.file_path(source.uri))
        except ValueError as error:
            raise errors.InvalidArgument.of_fields(
                (FieldViolation(field="source.uri", description=f"got {shorten(source.uri)}: {error}"),)
            ) from None
        # A link in the path must not lead out of an allowed place, so both sides are resolved
        # before they are compared.
        if not self._allows(path):
            raise refused(
                errors.Reason.SOURCE_NOT_ALLOWED,
                f"got {shorten(source.uri)}: the control plane takes adapters from "
                f"{', '.join(self._allowed_sources)} only",
            )
        return path

    def _allows(self, path: Path) -> bool:
        return not self._allowed_sources or any(_is_below(path, prefix) for prefix in self._allowed_sources)

    def _verify(
        self, directory: Path, base: model_pb2.ModelSpec, cancelled: threading.Event
    ) -> adapter_pb2.AdapterWeights:
        with (
            opened(directory, CONFIG_FILE, self._allows) as config_file,
            opened(directory, WEIGHTS_FILE, self._allows) as weights_file,
        ):
            size_bytes = size_of(config_file) + size_of(weights_file)
            if size_bytes > self._size_bytes_max:
                raise refused(
                    errors.Reason.ADAPTER_TOO_LARGE,
                    f"the files total {size_bytes} bytes; at most {self._size_bytes_max} are allowed",
                )
            config = parse_config(config_bytes(config_file))
            _check_rank(config.rank_max, base.lora.max_rank)
            base_tensors, base_config = base_weights.read(base.source), base_weights.read_config(base.source)
            tensors = tensors_in(weights_file)
            summary = check_tensors(
                config,
                tensors,
                base_tensors,
                frozenset(architectures(base_config)),
                base_head(base.engine, base_config, base_tensors),
                generates=generates(base.engine, base_config, pools=base_weights.makes_embeddings(base.source)),
            )
            values = FiniteWeights(tensors, file_bytes=size_of(weights_file))
            files = [
                hashed(CONFIG_FILE, config_file, cancelled),
                hashed(WEIGHTS_FILE, weights_file, cancelled, values),
            ]
        return adapter_pb2.AdapterWeights(
            digest=weights_digest(files),
            files=files,
            size_bytes=size_bytes,
            rank=summary.rank,
            target_modules=summary.target_modules,
        )


def _is_below(path: Path, prefix: str) -> bool:
    real_prefix = Path(os.path.realpath(sources.file_path(prefix)))
    return Path(os.path.realpath(path)).is_relative_to(real_prefix)


def _check_rank(rank: int, rank_max: int) -> None:
    if rank > rank_max:
        raise refused(
            errors.Reason.ADAPTER_RANK_TOO_HIGH,
            f"the adapter has rank {rank}; its model serves ranks up to {rank_max} (spec.lora.max_rank)",
        )
