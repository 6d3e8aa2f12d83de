"""Log output: constant event names with fields, on standard error.

Each change writes a line. So our own lines do not go through the standard library's logging, which
would take twice as long as all the rest of a line.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Literal

import structlog


def configure(log_format: Literal["console", "json"]) -> None:
    """Send all logs of this process, those of libraries included, through structlog.

    Args:
        log_format: `console` for people; `json` for programs, an object a line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without the values of local variables, which may be secret.
    rendering: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Only warnings of libraries: alembic logs each migration that it looks at, grpc each call.
    root.setLevel(logging.WARNING)


class _Lines:
    """Writes lines to standard error. One that it does not take is lost.

    A full disk below it, or a pipe whose reader is gone, must not make the call fail whose change
    is already durable.
    """

    def __init__(self, *_name: str) -> None:
        """
        Args:
            _name: Of the logger. It is not shown.
        """

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = write
