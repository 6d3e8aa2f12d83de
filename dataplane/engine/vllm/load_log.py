"""vLLM's log of its load, as an event of Broadsheet's log.

Every ten seconds, if it had work, vLLM logs a line such as this:

    Engine 000: Avg prompt throughput: 9.1 tokens/s, Avg generation throughput: 58.2 tokens/s,
    Running: 3 reqs, Waiting: 1 reqs, GPU KV cache usage: 0.7%, Prefix cache hit rate: 12.5%
"""

from __future__ import annotations

import logging
import re

import structlog

VLLM_LOGGER = "vllm.v1.metrics.loggers"
"""Where vLLM 0.32 logs that line."""

_ENGINE = re.compile(r"Engine (\d+): |\d+ Engines Aggregated: ")
_PART = re.compile(
    r"(?:Avg |[A-Z]+ (?=KV cache))?(\w[\w ]*?)(?: throughput)?: (\d+(?:\.\d+)?)( tokens/s| reqs|%)?(?:, |$)"
)
_UNITS = {" tokens/s": "_tokens_per_s", " reqs": "_requests", "%": "_percent", None: ""}


class LoadEvents(logging.Filter):
    """Logs vLLM's line as the event `engine_load`. Other lines, and unknown forms of it, pass."""

    def __init__(self, model: str) -> None:
        """
        Args:
            model: Resource name of the model, for the event.
        """
        super().__init__()
        self._log = structlog.get_logger("dataplane.engine.vllm").bind(model=model)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether vLLM's own handlers get the line."""
        load = load_in(record.getMessage())
        if load is None:
            return True
        self._log.info("engine_load", **load)
        return False


def log_load_as_events(model: str) -> None:
    """From now on, log the load of this process's engine as events."""
    logging.getLogger(VLLM_LOGGER).addFilter(LoadEvents(model))


def load_in(line: str) -> dict[str, float] | None:
    """The numbers of vLLM's line, with their units; None: it is another line, or has more to say.

    `engine` is the index among the engines of data parallelism. It is absent if vLLM adds them up.
    """
    head = _ENGINE.match(line)
    if head is None:
        return None
    load: dict[str, float] = {} if head[1] is None else {"engine": int(head[1])}
    at = head.end()
    while at < len(line):
        part = _PART.match(line, at)
        if part is None:
            return None
        name = part[1].lower().replace(" ", "_") + _UNITS[part[3]]
        load[name] = float(part[2]) if "." in part[2] else int(part[2])
        at = part.end()
    return load
