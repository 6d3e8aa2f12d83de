"""From a resource to what answers for it in the current view."""

from __future__ import annotations

from dataplane.ingress.choices.remembered import Remembered
from dataplane.ingress.routing import Route, resolve
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import View


class Routes:
    """The routes of the view that was last asked."""

    def __init__(self) -> None:
        self._known: Remembered[tuple[str, str], Route] = Remembered()
        """By resource and served name."""

    def of(self, view: View, resource: str, served_name: str) -> Route:
        """What answers for a resource.

        Args:
            view: The current one.
            resource: Resource name of a model or adapter, or of a pinned revision of either.
            served_name: The name that the caller asked for.

        Raises:
            NotServedHere
        """
        known = self._known.get(view, (resource, served_name))
        if known is not None:
            return known
        route = resolve(view, resource, served_name)
        if route is None:
            raise openai_errors.NotServedHere(served_name)
        return self._known.keep(view, (resource, served_name), route)

    def forget(self) -> None:
        """Drop what was kept: the view is no longer the current one."""
        self._known.forget()
