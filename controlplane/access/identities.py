"""Which data planes a caller may speak for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from controlplane import errors
from controlplane.catalog.domain import Identity
from controlplane.principal import Principal

BoundIds = Callable[[], AbstractSet[str]]
"""The ids of data planes that have a credential of their own now."""


class DataPlaneIdentities:
    """Decides which data planes a caller may speak for, and how sure their identity is.

    Invariants: a credential that is bound to a data plane speaks for no other; a data plane that
    has a credential of its own is spoken for by no other credential.
    """

    def __init__(self, bound_ids: Sequence[BoundIds], *, allows_unbound: bool) -> None:
        """
        Args:
            bound_ids: One for each way to authenticate that can list them.
            allows_unbound: Whether other credentials may speak for the data planes that have none
                of their own.
        """
        self._bound_ids = bound_ids
        self._allows_unbound = allows_unbound

    def identify(self, caller: Principal, data_plane_id: str) -> Identity:
        """How sure it is that `caller` is the data plane `data_plane_id`.

        Raises:
            errors.PermissionDenied: it may not speak for this data plane.
        """
        if caller.data_plane == data_plane_id:
            return Identity.BOUND
        if caller.data_plane:
            raise _denied(
                errors.Reason.DATA_PLANE_MISMATCH,
                f"{caller.name} is for the data plane {caller.data_plane}, not for {data_plane_id}",
                caller,
                caller.data_plane,
            )
        if any(data_plane_id in bound_ids() for bound_ids in self._bound_ids):
            raise bound_elsewhere(caller, data_plane_id)
        if not self._allows_unbound:
            raise _denied(
                errors.Reason.DATA_PLANE_UNBOUND,
                f"{caller.name} is for no data plane in particular, and such credentials are not accepted here; give "
                f"{data_plane_id} a token or certificate of its own, or start the control plane with "
                "--allow-unbound-data-planes",
                caller,
                data_plane_id,
            )
        return Identity.LOCAL if caller.is_local else Identity.SHARED


def bound_elsewhere(caller: Principal, data_plane_id: str) -> errors.PermissionDenied:
    """The refusal of a caller that speaks for a data plane with a credential of its own."""
    return _denied(
        errors.Reason.DATA_PLANE_BOUND,
        f"{data_plane_id} has a credential of its own, and {caller.name} is for no data plane in particular",
        caller,
        data_plane_id,
    )


def _denied(reason: errors.Reason, message: str, caller: Principal, data_plane_id: str) -> errors.PermissionDenied:
    metadata = {"principal": caller.name, "dataPlane": data_plane_id}
    return errors.PermissionDenied(reason, message, metadata=metadata)
