"""Who may do what: roles, permissions, and the table from RPC to permission. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from controlplane import errors
from controlplane.principal import Principal


class Role(enum.StrEnum):
    """The role of a principal, named as in tokens files, OIDC claims and certificates."""

    VIEWER = "viewer"
    """Reads the catalog and the fleet."""
    PUBLISHER = "publisher"
    """A viewer that also changes the catalog: models, adapters, routes."""
    OPERATOR = "operator"
    """A publisher that also rolls back the whole catalog, rules the waves of rollouts, reads the
    audit log, reads and revokes API keys, and enrols data planes."""
    ADMIN = "admin"
    """May do everything."""
    DATA_PLANE = "data-plane"
    """Opens a Sync stream, and does nothing else."""


class Permission(enum.StrEnum):
    """What the role of a caller has to allow."""

    OPEN = "open"
    """Needs no credentials."""
    REFLECT = "reflect"
    """List services and messages (server reflection)."""
    CATALOG_READ = "catalog.read"
    CATALOG_WRITE = "catalog.write"
    CATALOG_ROLL_BACK = "catalog.roll-back"
    FLEET_READ = "fleet.read"
    FLEET_ENROLL = "fleet.enroll"
    FLEET_REMOVE = "fleet.remove"
    FLEET_ROLL_OUT = "fleet.roll-out"
    """Decide how, and whether, snapshots reach the data planes."""
    AUDIT_READ = "audit.read"
    KEYS_READ = "keys.read"
    KEYS_REVOKE = "keys.revoke"
    KEYS_CREATE = "keys.create"
    """A key gives access to others, so only administrators create them."""
    SYNC = "sync"
    """Follow the catalog as a data plane."""


_VIEWER = frozenset({Permission.REFLECT, Permission.CATALOG_READ, Permission.FLEET_READ})
_PUBLISHER = _VIEWER | {Permission.CATALOG_WRITE}
_OPERATOR = _PUBLISHER | {
    Permission.CATALOG_ROLL_BACK,
    Permission.FLEET_ENROLL,
    Permission.FLEET_ROLL_OUT,
    Permission.AUDIT_READ,
    Permission.KEYS_READ,
    Permission.KEYS_REVOKE,
}

PERMISSIONS_OF_ROLE: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.VIEWER: _VIEWER,
        Role.PUBLISHER: _PUBLISHER,
        Role.OPERATOR: _OPERATOR,
        Role.ADMIN: frozenset(Permission) - {Permission.OPEN},
        Role.DATA_PLANE: frozenset({Permission.SYNC}),
    }
)
"""What each role may do. `OPEN` is in none, because it needs no role."""

_PERMISSIONS_OF_NAME: Mapping[str, frozenset[Permission]] = {
    role.value: allowed for role, allowed in PERMISSIONS_OF_ROLE.items()
}

_REGISTRY: Mapping[str, Permission] = {
    "RegisterModel": Permission.CATALOG_WRITE,
    "GetModel": Permission.CATALOG_READ,
    "ListModels": Permission.CATALOG_READ,
    "UpdateModel": Permission.CATALOG_WRITE,
    "DeleteModel": Permission.CATALOG_WRITE,
    "UndeleteModel": Permission.CATALOG_WRITE,
    "ListModelRevisions": Permission.CATALOG_READ,
    "RollbackModel": Permission.CATALOG_WRITE,
    "ControlRollout": Permission.CATALOG_WRITE,
    # Costs no more than `min_replicas`, which a publisher sets too.
    "WarmModel": Permission.CATALOG_WRITE,
    "RegisterAdapter": Permission.CATALOG_WRITE,
    "GetAdapter": Permission.CATALOG_READ,
    "ListAdapters": Permission.CATALOG_READ,
    "UpdateAdapter": Permission.CATALOG_WRITE,
    "DeleteAdapter": Permission.CATALOG_WRITE,
    "UndeleteAdapter": Permission.CATALOG_WRITE,
    "ListAdapterRevisions": Permission.CATALOG_READ,
    "RollbackAdapter": Permission.CATALOG_WRITE,
    "SetRoute": Permission.CATALOG_WRITE,
    "GetRoute": Permission.CATALOG_READ,
    "ListRoutes": Permission.CATALOG_READ,
    "ListRouteRevisions": Permission.CATALOG_READ,
    "RollbackRoute": Permission.CATALOG_WRITE,
    "DeleteRoute": Permission.CATALOG_WRITE,
    "UndeleteRoute": Permission.CATALOG_WRITE,
    "CreateApiKey": Permission.KEYS_CREATE,
    "GetApiKey": Permission.KEYS_READ,
    "ListApiKeys": Permission.KEYS_READ,
    "RevokeApiKey": Permission.KEYS_REVOKE,
    "ListAuditEvents": Permission.AUDIT_READ,
}

_SNAPSHOT: Mapping[str, Permission] = {
    "Sync": Permission.SYNC,
    "FetchSnapshot": Permission.CATALOG_READ,
    "ListSnapshots": Permission.CATALOG_READ,
    "DiffSnapshots": Permission.CATALOG_READ,
    "RollbackCatalog": Permission.CATALOG_ROLL_BACK,
}

_FLEET: Mapping[str, Permission] = {
    "ListDataPlanes": Permission.FLEET_READ,
    "GetDataPlane": Permission.FLEET_READ,
    "WaitForRevision": Permission.FLEET_READ,
    "RemoveDataPlane": Permission.FLEET_REMOVE,
    "EnrollDataPlane": Permission.FLEET_ENROLL,
    # Its caller has nothing but the enrolment token.
    "RedeemEnrollment": Permission.OPEN,
    "GetFleetPolicy": Permission.FLEET_READ,
    "SetFleetPolicy": Permission.FLEET_ROLL_OUT,
    "GetFleetRollout": Permission.FLEET_READ,
    "HaltFleetRollout": Permission.FLEET_ROLL_OUT,
    "ResumeFleetRollout": Permission.FLEET_ROLL_OUT,
    "ForceFleetRollout": Permission.FLEET_ROLL_OUT,
}

PERMISSION_OF_METHOD: Mapping[str, Permission] = MappingProxyType(
    {
        **{f"/broadsheet.v1.RegistryService/{name}": needed for name, needed in _REGISTRY.items()},
        **{f"/broadsheet.v1.SnapshotService/{name}": needed for name, needed in _SNAPSHOT.items()},
        **{f"/broadsheet.v1.FleetService/{name}": needed for name, needed in _FLEET.items()},
        "/grpc.health.v1.Health/Check": Permission.OPEN,
        "/grpc.health.v1.Health/List": Permission.OPEN,
        "/grpc.health.v1.Health/Watch": Permission.OPEN,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Permission.REFLECT,
    }
)
"""What each RPC needs. No role may call an RPC that is missing here; a test checks that none is."""


def needs_credentials(method: str) -> bool:
    """Whether `method` (`/package.Service/Method`) needs credentials."""
    return PERMISSION_OF_METHOD.get(method) is not Permission.OPEN


def highest(roles: Iterable[Role]) -> Role | None:
    """The role with the most permissions; None: there are no roles."""
    return max(roles, key=lambda role: len(PERMISSIONS_OF_ROLE[role]), default=None)


def may(principal: Principal, permission: Permission) -> bool:
    """Whether the role of `principal` allows something, for what depends on more than the RPC."""
    return permission in _PERMISSIONS_OF_NAME.get(principal.role, ())


def authorize(principal: Principal, method: str) -> None:
    """Check that `principal` may call `method`.

    Raises:
        errors.PermissionDenied: its role may not call it.
    """
    needed = PERMISSION_OF_METHOD.get(method)
    if needed is Permission.OPEN or (needed is not None and may(principal, needed)):
        return
    allowed = [role for role in Role if needed in PERMISSIONS_OF_ROLE[role]]
    name = method.rpartition("/")[2]
    raise errors.PermissionDenied(
        errors.Reason.PERMISSION_DENIED,
        f"{principal.name} has the role {principal.role or '(none)'}; {name} needs {needed or 'what no role has'}, "
        f"which is for {', '.join(allowed) or 'nobody'}",
        metadata={
            "principal": principal.name,
            "role": principal.role,
            "permission": needed or "",
            "allowedRoles": ",".join(allowed),
        },
    )
