"""The records of the data planes of a Ray cluster. They live as long as the cluster.

They are in Ray's own store of keys and values, because a relay can be lost, and Ray Serve shows
nobody the arguments of an application. Blocks; Ray must have been joined.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from pydantic import SecretStr
from ray.experimental import internal_kv

from dataplane.launch.errors import LaunchRefused
from dataplane.launch.record import LaunchRecord
from dataplane.settings import Settings

_NAMESPACE = "broadsheet"
_PREFIX = "data-planes/"
_LAUNCH_ONLY = frozenset({"ray_address", "detach"})
"""Settings of a launcher, not of the data plane."""


def record_of(settings: Settings) -> LaunchRecord:
    """What a launcher with these settings leaves."""
    shown = {name: _shown(getattr(settings, name)) for name in Settings.model_fields if name not in _LAUNCH_ONLY}
    return LaunchRecord(release=version("broadsheet"), settings=shown)


def read_all() -> dict[str, LaunchRecord]:
    """The record of each data plane of the cluster, by its id.

    Raises:
        LaunchRefused: One cannot be read.
    """
    ids = [key.decode().removeprefix(_PREFIX) for key in internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE)]
    found = ((data_plane_id, read(data_plane_id)) for data_plane_id in ids)
    return {data_plane_id: record for data_plane_id, record in found if record is not None}


def read(data_plane_id: str) -> LaunchRecord | None:
    """The record of a data plane. None: it is not on this cluster.

    Raises:
        LaunchRefused: It cannot be read.
    """
    stored = internal_kv._internal_kv_get(_PREFIX + data_plane_id, namespace=_NAMESPACE)
    try:
        return None if stored is None else LaunchRecord.from_json(stored.decode())
    except ValueError as error:
        raise LaunchRefused(f"the record of data plane {data_plane_id} on this cluster: {error}") from error


def write(data_plane_id: str, record: LaunchRecord) -> None:
    """Leave a record."""
    internal_kv._internal_kv_put(_PREFIX + data_plane_id, record.to_json(), namespace=_NAMESPACE)


def remove(data_plane_id: str) -> None:
    """Forget a data plane that was stopped."""
    internal_kv._internal_kv_del(_PREFIX + data_plane_id, namespace=_NAMESPACE)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()[:16]}" if secret else ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return "" if value is None else str(value)
