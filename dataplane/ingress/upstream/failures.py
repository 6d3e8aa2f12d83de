"""Why an engine replica gave no answer. Pure."""

from __future__ import annotations


class UpstreamFailed(Exception):
    """An engine replica gave no answer, or an incomplete one.

    Attributes:
        refused: The engine never had the request: no connection was made, or the wrong process
            answered.
    """

    def __init__(self, what: str, *, refused: bool) -> None:
        super().__init__(what)
        self.refused = refused


class UpstreamSilent(UpstreamFailed):
    """An engine replica had the request and was silent for too long.

    Another replica is not asked: that would only double the work.
    """

    def __init__(self) -> None:
        super().__init__("silent for too long", refused=False)
