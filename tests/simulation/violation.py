"""An invariant that does not hold."""

from __future__ import annotations


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant
        """Its name: a run that fails in another way is another fault."""
