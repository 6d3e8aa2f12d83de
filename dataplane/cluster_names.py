"""Names of applications and actors on a Ray cluster, which several data planes may share. Pure.

Each name ends with the id of its data plane, after a character that no id has. So the names of one
data plane are never another's, even if its id is the end or the beginning of the other's id.
"""

from __future__ import annotations

_SEPARATOR = "@"


def on_cluster(name: str, data_plane_id: str) -> str:
    """The name that something of a data plane has on the cluster."""
    return f"{name}{_SEPARATOR}{data_plane_id}"


def in_data_plane(name: str, data_plane_id: str) -> str | None:
    """The name within the data plane, from the one on the cluster. None: it is not of this one."""
    own, separator, owner = name.rpartition(_SEPARATOR)
    return own if separator and owner == data_plane_id else None
