"""The data planes that are known, by id. Pure."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Container, Mapping, Sequence

from controlplane.fleet.data_plane import DataPlane, Session
from protocol.names import data_plane_name


class KnownDataPlanes(UserDict[str, DataPlane]):
    """Data planes by id. Their order is computed when one comes or goes, not at each question."""

    def __init__(self) -> None:
        super().__init__()
        self._ids: Sequence[str] | None = None
        self._by_name: Sequence[tuple[str, DataPlane]] | None = None

    @property
    def ids(self) -> Sequence[str]:
        """All ids, in order."""
        if self._ids is None:
            self._ids = sorted(self.data)
        return self._ids

    @property
    def by_name(self) -> Sequence[tuple[str, DataPlane]]:
        """All resource names with their data planes, in the order of ids."""
        if self._by_name is None:
            self._by_name = tuple((data_plane_name(known_id), self.data[known_id]) for known_id in self.ids)
        return self._by_name

    def __setitem__(self, data_plane_id: str, known: DataPlane) -> None:
        super().__setitem__(data_plane_id, known)
        self._ids = self._by_name = None

    def __delitem__(self, data_plane_id: str) -> None:
        super().__delitem__(data_plane_id)
        self._ids = self._by_name = None

    @property
    def report_numbers(self) -> Mapping[str, int]:
        """`FleetChange.number` of what is known from the shared database, by id."""
        return {
            data_plane_id: known.elsewhere.number
            for data_plane_id, known in self.data.items()
            if known.elsewhere is not None
        }

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The newest session of each, by id."""
        return {data_plane_id: known.session for data_plane_id, known in self.data.items()}

    def make_room(self, *, kept: Container[str]) -> None:
        """Forget one that is not connected and that the database has, if there is such a one.

        Args:
            kept: Ids of those that have something to write.
        """
        for data_plane_id, known in self.data.items():
            if not known.connected and known.stored is not None and data_plane_id not in kept:
                del self[data_plane_id]
                return

    def get_known(self, data_plane_id: str) -> DataPlane | None:
        """The data plane with this id; None: it is not known."""
        return self.data.get(data_plane_id)
