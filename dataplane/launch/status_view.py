"""How `status` shows a data plane: as JSON, or as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.table import Table

from dataplane.launch.observed import Observed
from dataplane.snapshot.snapshot import Position


def as_json(seen: Observed) -> str:
    """For programs. Fields are only ever added."""
    shown = {
        "data_plane_id": seen.data_plane_id,
        "release": seen.release,
        "http": seen.http,
        "agent": seen.agent,
        "ingress": seen.ingress,
        "position": _position(seen.position),
        "ingress_replicas": [
            {"id": replica.replica_id, "position": _position(replica.position), "in_flight": replica.in_flight}
            for replica in seen.ingress_replicas
        ],
        "applications": [
            {
                "name": application.name,
                "model": application.model,
                "revision_number": application.revision_number,
                "state": application.state,
                "ready_replicas": application.ready_replicas,
            }
            for application in seen.applications
        ],
    }
    return json.dumps(shown, indent=2)


def tables(seen: Observed) -> Iterator[Table]:
    """For people."""
    plane = _table("DATA PLANE", "HTTP", "AGENT", "INGRESS", "CATALOG REVISION", "RELEASE")
    plane.add_row(seen.data_plane_id, seen.http, seen.agent, seen.ingress, _revision(seen.position), seen.release)
    yield plane
    ingress = _table("INGRESS REPLICA", "CATALOG REVISION", "REQUESTS")
    for replica in seen.ingress_replicas:
        ingress.add_row(replica.replica_id, _revision(replica.position), str(replica.in_flight))
    yield ingress
    applications = _table("APPLICATION", "MODEL", "REVISION", "STATE", "READY")
    for one in seen.applications:
        applications.add_row(one.name, one.model or "-", str(one.revision_number), one.state, str(one.ready_replicas))
    yield applications


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _revision(position: Position | None) -> str:
    return "-" if position is None else str(position.revision)


def _position(position: Position | None) -> dict[str, object] | None:
    if position is None:
        return None
    return {"store_uid": position.store_uid, "catalog_revision": position.revision}
