"""What the ingress needs to know of any request body. Pure."""

from __future__ import annotations

from typing import Protocol

from dataplane.ingress.bodies.splice import Edit


class Body(Protocol):
    """A request body with a known model."""

    @property
    def raw(self) -> bytes:
        """The bytes as received."""
        ...

    @property
    def model(self) -> str:
        """The value of `model`."""
        ...

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream, where its route has streams."""
        ...

    def user(self) -> str | None:
        """The value of OpenAI's `user`, if the body has one and it is a string."""
        ...

    def asking_for(self, model: str) -> Edit:
        """The edit that replaces the value of `model`, and nothing else."""
        ...
