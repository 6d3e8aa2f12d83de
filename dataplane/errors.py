"""Errors of the data plane.

Callers never see them: `dataplane.openai.errors` makes the bodies of error responses.
"""

from __future__ import annotations


class DataPlaneError(Exception):
    """Base class. `reason` is UPPER_SNAKE. The message is for operators and may name files."""

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class EngineStartError(DataPlaneError):
    """An engine could not be started.

    Reasons: SOURCE_NOT_FOUND, ENGINE_ARGS_INVALID, ENGINE_CERTIFICATE_INVALID, ENGINE_START_FAILED,
    OUT_OF_MEMORY.
    """

    reason = "ENGINE_START_FAILED"


class AdapterError(DataPlaneError):
    """The files of an adapter could not be read, are not the registered ones, would do harm, or the
    engine cannot load them.

    Reasons: ADAPTER_SOURCE_NOT_FOUND, ADAPTER_DIGEST_MISMATCH, ADAPTER_FILES_INVALID,
    ADAPTER_UNREADABLE, ADAPTER_LOAD_FAILED, ADAPTER_LEAVING.
    """

    reason = "ADAPTER_UNREADABLE"

    def __init__(self, message: str, *, reason: str | None = None, retry_after_s: float = 1.0) -> None:
        """
        Args:
            message: The engine's own words.
            reason: UPPER_SNAKE.
            retry_after_s: When it is tried again, in seconds.
        """
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s
