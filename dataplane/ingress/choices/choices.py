"""From the name that a caller asked for to the resource that its request goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from broadsheet.v1 import route_pb2, snapshot_pb2
from dataplane.ingress.choices.remembered import Remembered
from dataplane.ingress.routing import Choice, NotFound, Split, choose, choose_target, fixed_choice
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
        self._known: Remembered[str, Choice | Split] = Remembered()
        """By served name, of the snapshot that was last asked: what does not change by request."""

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
        known = self._known.get(snapshot, served_name) or self._work_out(snapshot, served_name)
        if isinstance(known, Choice):
            return known

        def sticky_key(sticky: route_pb2.RouteSticky) -> str | None:
            if sticky.user:
                return user()
            value = headers.get(sticky.header.encode())
            return value.decode("latin-1") if value is not None else None

        if known is not None:
            return choose_target(snapshot, known, sticky_key=sticky_key, draw=self._random.random)
        drawn = choose(snapshot, served_name, sticky_key=sticky_key, draw=self._random.random)
        if isinstance(drawn, NotFound):
            raise openai_errors.ModelNotFound(served_name)
        return drawn

    def _work_out(self, snapshot: Snapshot, served_name: str) -> Choice | Split | None:
        entry = snapshot.served.get(served_name)
        if isinstance(entry, snapshot_pb2.RouteEntry):
            return self._known.keep(snapshot, served_name, Split.of(entry))
        choice = fixed_choice(snapshot, served_name)
        return self._known.keep(snapshot, served_name, choice) if choice is not None else None

    def on_view(self, view: View) -> None:
        """Drop what was kept of the view before. A listener of the `ViewHolder`."""
        self._known.forget()
