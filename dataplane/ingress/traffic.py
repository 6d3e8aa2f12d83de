"""How many requests one ingress replica has answered, and how many of them failed. Pure.

The control plane compares the share of failures before and after a snapshot.
"""

from __future__ import annotations

SERVER_ERROR = 500
"""The lowest HTTP status that says that the caller is not to blame."""


class TrafficCount:
    """Counts that only rise, from the start of the replica on."""

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0

    def count(self, kind: str, status: int, *, broke_off: bool) -> None:
        """Count a request that has ended.

        One that nothing has answered counts if it failed: what it asked for could not be served.
        Unknown names and wrong keys are the caller's.

        Args:
            kind: What answered it: `model`, `adapter`, or `none`.
            status: Of the answer.
            broke_off: Whether the answer did not come to its end, though the caller was there.
        """
        is_failure = broke_off or status >= SERVER_ERROR
        if kind != "none" or is_failure:
            self.requests += 1
            self.failures += is_failure
