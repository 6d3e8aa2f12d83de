"""Load by wrk, which is not the limit: it makes tens of thousands of requests a second.

wrk sends the same request over kept connections, each the next one when the last is answered, and
counts answers whose status is above 399, broken connections and timeouts. All of them are errors.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec

_MARK = "@result "
_TIMEOUT_S = 60
"""An answer that takes longer is an error. LiteLLM's proxy takes seconds with 256 connections."""
_SPARE_S = 30
"""How long wrk may run beyond its duration."""
_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
{headers}
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{mark}{{"requests":%d,"duration_s":%.6f,"read_bytes":%d,"p50_ms":%.3f,"p99_ms":%.3f,"errors":%d}}\\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of wrk has seen."""

    requests: int
    """Complete answers."""
    duration_s: float
    read_bytes: int
    p50_ms: float
    """From the first byte of the request to the last of the answer."""
    p99_ms: float
    errors: int
    """Answers with a status above 399, broken connections and timeouts."""


class LoadError(Exception):
    """wrk could not measure; the message says why."""


def installed() -> str:
    """The path of wrk.

    Raises:
        LoadError: It is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk is not installed; scripts/install-bench installs it")
    return path


def parse(output: str) -> Load:
    """What the script's last function has printed.

    Raises:
        LoadError: It has printed nothing, or something else.
    """
    for line in output.splitlines():
        if line.startswith(_MARK):
            try:
                return msgspec.json.decode(line.removeprefix(_MARK), type=Load)
            except msgspec.DecodeError as error:
                raise LoadError(f"wrk's result cannot be read: {line!r}: {error}") from error
    raise LoadError(f"wrk printed no result: {output!r}")


def script(body: Path, headers: dict[str, str]) -> str:
    """The Lua script that sends this file with these headers."""
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    return _SCRIPT.format(headers="\n".join(lines), body=json.dumps(str(body)), mark=_MARK)


def run(url: str, lua: Path, *, connections: int, seconds: int) -> Load:
    """Load a URL.

    Args:
        url: Where requests go.
        lua: The script.
        connections: Kept connections, each with a request in progress.
        seconds: How long.

    Raises:
        LoadError: wrk failed.
    """
    # One thread: wrk needs less of a core than anything it measures.
    command = [installed(), "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_TIMEOUT_S}s", "-s", str(lua), url]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + _TIMEOUT_S + _SPARE_S
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end: {' '.join(command)}") from error
    if done.returncode != 0:
        raise LoadError(f"wrk failed with status {done.returncode}: {done.stderr or done.stdout}")
    return parse(done.stdout)
