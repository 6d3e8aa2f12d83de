"""What a start of vLLM leaves in its exception and in the replica's log."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

_CAUSE = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)): (.+)")
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")
_WEIGHTS_LOADED = re.compile(r"Loading weights took (\d+(?:\.\d+)?) seconds")
_PYDANTIC_VALUE_ERROR = re.compile(r"validation errors? for \w+.*?Value error, (.+?)\s*\[type=value_error", re.DOTALL)
_LOG_TAIL_BYTES = 256 * 1024


def error_message(error: BaseException) -> str:
    """The message of `error`, without what pydantic puts around it."""
    text = str(error) or type(error).__name__
    validation = _PYDANTIC_VALUE_ERROR.search(text)
    return validation[1].strip() if validation else text


def log_sizes() -> dict[Path, int]:
    """The sizes of the files that this replica's stdout and stderr go to.

    vLLM's processes write to them too.
    """
    found = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            path = Path(f"/proc/self/fd/{descriptor}").resolve(strict=True)
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def log_since(sizes: Mapping[Path, int]) -> str:
    """What was written to the replica's log since it had these sizes, cut at 256 KiB per file."""
    texts = []
    for path, size in sizes.items():
        with path.open("rb") as log:
            log.seek(size)
            texts.append(log.read(_LOG_TAIL_BYTES).decode("utf-8", "replace"))
    return "\n".join(texts)


def cause_in(text: str) -> str:
    """The first exception in the log of the engine's process; empty: there is none."""
    causes = [match for line in text.splitlines() if (match := _CAUSE.search(line))]
    for match in causes:
        if "Engine core initialization failed" not in match[2]:
            return f"{match[1]}: {match[2]}"
    return ""


def kill_message(message: str, kernel_kills: int) -> str:
    """The error for vLLM's message that its engine's process was killed; empty: it is another one.

    Args:
        message: vLLM's.
        kernel_kills: Processes that the kernel has killed meanwhile because memory ran out.
    """
    if not _KILLED.search(message):
        return ""
    cause = "the machine ran out of memory, and its kernel killed a process" if kernel_kills else "by whom is not known"
    return f"the engine's process was killed (SIGKILL) while it started: {cause}"


def weights_seconds(text: str) -> float | None:
    """How long the slowest worker read the weights, from the log; None: it is not in it."""
    return max((float(match[1]) for match in _WEIGHTS_LOADED.finditer(text)), default=None)
