"""A well-behaved caller, as a process of its own: asks at a steady rate, and times the answers.

It keeps one connection to each plane. For `begin` and then `end` on its standard input, each a
line, it writes a line of JSON: the seconds of each answer, or what failed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from broadsheet import Client, errors

INTERVAL_S = 0.01
"""Between two requests. One that takes longer delays the next."""

TIMEOUT_S = 20.0
_FAILURES = (OSError, http.client.HTTPException, errors.BroadsheetError)

CHAT = "chat"
"""A chat completion with an API key: through the ingress, by an engine."""
REGISTRY = "registry"
"""GetModel at the control plane, with the token of an administrator."""


class Neighbour:
    """The process, as its parent sees it."""

    def __init__(self, *, http: str, key: str, model: str, control_plane: str) -> None:
        command = [sys.executable, "-m", "tests.hostile.neighbour", http, key, model, control_plane]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def begin(self, what: str) -> None:
        """Begin to ask: CHAT or REGISTRY."""
        self._write(what)

    def end(self) -> Sequence[float]:
        """Stop asking. Returns the seconds of each answer since `begin`.

        Raises:
            AssertionError: a request failed.
        """
        self._write("end")
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        assert not answer["failures"], f"the neighbour's requests failed: {answer['failures'][:3]}"
        assert answer["seconds"], "the neighbour got no answer"
        seconds: Sequence[float] = answer["seconds"]
        return seconds

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def chat(address: str, key: str, model: str) -> Callable[[], None]:
    """A function that asks the model over a connection that is kept."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask() -> None:
        if connection.sock is None:  # at first, and after a failure
            connection.connect()
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")

    return ask


def registry(client: Client, model: str) -> Callable[[], None]:
    """A function that reads the model from the registry."""

    def ask() -> None:
        client.get_model(model)

    return ask


class Asking:
    """Asks in a thread, from its making until `stop`."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._seconds: list[float] = []
        self._failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> Mapping[str, object]:
        self._stop.set()
        self._thread.join()
        return {"seconds": self._seconds, "failures": self._failures}

    def _run(self) -> None:
        with contextlib.suppress(*_FAILURES):  # the server may have closed an idle connection
            self._ask()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._ask()
            except _FAILURES as error:
                self._failures.append(repr(error))
                return
            took_s = time.monotonic() - began
            self._seconds.append(took_s)
            self._stop.wait(max(0.0, INTERVAL_S - took_s))


def main() -> None:
    address, key, model, control_plane = sys.argv[1:]
    with Client(control_plane) as client:
        asks = {CHAT: chat(address, key, model), REGISTRY: registry(client, model)}
        for line in sys.stdin:
            asking = Asking(asks[line.strip()])
            sys.stdin.readline()
            sys.stdout.write(json.dumps(asking.stop()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
