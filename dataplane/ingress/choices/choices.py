"""From the name that a caller asked for to the resource that its request goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from broadsheet.v1 import route_pb2
from dataplane.ingress.choices.remembered import Remembered
from dataplane.ingress.routing import Choice, NotFound, choose, fixed_choice
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import View
from dataplane.snapshot.snapshot import Snapshot


class Choices:
    """Chooses for each request. One per ingress replica."""

    def __init__(self, random: Random) -> None:
        """
        Args:
            random: For the choice between targets of a route.
        """
        self._random = random
        self._fixed: Remembered[str, Choice] = Remembered()
        """By served name, of the snapshot that was last asked."""

    def choose(
        self,
        snapshot: Snapshot,
        served_name: str,
        *,
        headers: Mapping[bytes, bytes],
        user: Callable[[], str | None],
    ) -> Choice:
        """What a request goes to.

        Args:
            snapshot: The current one.
            served_name: The name that the caller asked for.
            headers: Of the request, by name in lower case.
            user: Returns the `user` in its body.

        Raises:
            ModelNotFound
        """
        known = self._fixed.get(snapshot, served_name)
        if known is not None:
            return known
        choice = fixed_choice(snapshot, served_name)
        if choice is not None:
            self._fixed.keep(snapshot, served_name, choice)
            return choice

        def sticky_key(sticky: route_pb2.RouteSticky) -> str | None:
            if sticky.user:
                return user()
            value = headers.get(sticky.header.encode())
            return value.decode("latin-1") if value is not None else None

        drawn = choose(snapshot, served_name, sticky_key=sticky_key, draw=self._random.random)
        if isinstance(drawn, NotFound):
            raise openai_errors.ModelNotFound(served_name)
        return drawn

    def on_view(self, view: View) -> None:
        """Drop what was kept of the view before. A listener of the `ViewHolder`."""
        self._fixed.forget()
