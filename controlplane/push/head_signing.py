"""Signs the heads of snapshots, once for all streams, with keys that are read again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane import errors
from controlplane.catalog.convert import optional_timestamp_to_proto, position_from_proto, position_to_proto
from controlplane.catalog.domain import Head, Position
from protocol.signing.heads import sign_head
from protocol.signing.signatures import Signer
from protocol.transport.key_files import KeyFiles, KeyFilesError, make_private_key, private_key_files, read_signer

CACHED_HEADS_MAX = 64
"""Signed heads that are kept, those used last: the newest, and what slower streams are sent."""

RELOAD_INTERVAL_S = 1.0
"""How often the key files are looked at. Seconds."""


class SigningSettings(Protocol):
    """The settings of signing. `controlplane.settings` explains them."""

    @property
    def sign(self) -> bool: ...
    @property
    def signing_keys(self) -> Path | None: ...
    @property
    def signing_keys_path(self) -> Path: ...


_log = structlog.get_logger("controlplane.push.head_signing")


def signing_keys(settings: SigningSettings) -> KeyFiles[Signer] | None:
    """The private keys that sign by these settings. None: nothing is to be signed.

    Without a setting, the first start makes a key in the data directory.

    Raises:
        errors.SetupError: they cannot be read or made.
    """
    if not settings.sign:
        return None
    path = settings.signing_keys_path
    try:
        if settings.signing_keys is None and not (path.is_dir() and private_key_files(path)):
            hint = "`broadsheet controlplane keys public` prints its public key"
            _log.info("signing_key_made", file=str(make_private_key(path)), hint=hint)
        keys = KeyFiles(path, read_signer)
        keys.read()
    except KeyFilesError as error:
        raise errors.SetupError(f"{error}; give --signing-keys, or --no-sign") from error
    return keys


class HeadSigner:
    """The heads with their signatures. One per process, used from its event loop only."""

    def __init__(self, keys: KeyFiles[Signer] | None) -> None:
        """
        Args:
            keys: The private keys, which all sign. None: nothing is signed.

        Raises:
            KeyFilesError: They cannot be used.
        """
        self._keys = keys
        self.signer = keys.read() if keys is not None else None
        """Signs with all keys; None: nothing is signed."""
        self._signed: OrderedDict[Position, snapshot_pb2.SignedHead] = OrderedDict()

    def signed(self, head: Head) -> snapshot_pb2.SignedHead | None:
        """The signed head; None: nothing is signed. It is shared, and read only."""
        if self.signer is None:
            return None
        signed = self._signed.get(head.position)
        if signed is None:
            signed = self._signed[head.position] = sign_head(self.signer, _message(head))
            if len(self._signed) > CACHED_HEADS_MAX:
                self._signed.popitem(last=False)
        self._signed.move_to_end(head.position)
        return signed

    def add_to(self, response: pb.SyncResponse, head: Head) -> pb.SyncResponse:
        """Give `response`, if it is an Intent, the signed head of the snapshot that it announces.

        Args:
            response: A message for a stream.
            head: The snapshot. An Intent of another one stays as it is.
        """
        if response.WhichOneof("message") == "intent" and position_from_proto(response.intent.to) == head.position:
            signed = self.signed(head)
            if signed is not None:
                response.intent.signed_head.CopyFrom(signed)
        return response

    async def follow(self, announce: Callable[[], None], *, interval_s: float = RELOAD_INTERVAL_S) -> None:
        """Read the keys again when they change, for ever. Keys that cannot be used change nothing.

        Args:
            announce: Called after a change: the head is to be announced again.
            interval_s: How often to look. Seconds.
        """
        while self._keys is not None:
            await asyncio.sleep(interval_s)
            try:
                changed = await asyncio.to_thread(self._keys.changed)
            except KeyFilesError as error:
                _log.error("signing_keys_not_reloaded", error=str(error))
                continue
            if changed is not None:
                _log.info("signing_keys_reloaded", key_ids=changed.key_ids)
                self.signer = changed
                self._signed.clear()
                announce()


def _message(head: Head) -> snapshot_pb2.SnapshotHead:
    return snapshot_pb2.SnapshotHead(
        position=position_to_proto(head.position),
        entry_count=head.entry_count,
        commit_time=optional_timestamp_to_proto(head.commit_time),
    )
