"""What one request costs the ingress, in Python calls: of its own code and of its libraries.

Calls are counted, not time: the count is the same on every machine. A test fails when a request
takes more calls than are kept in `KEPT`, and shows the functions that are called most. When it
takes far fewer, the number here is to be lowered: it would guard nothing.

`PRINT_CALLS=1 pytest -s tests/stream/test_request_cost.py` prints the numbers as they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType

import pytest

from dataplane.snapshot.activation import View
from dataplane.snapshot.snapshot import Message
from tests import views
from tests.stream.counted_ingress import counted

KEY = "bs-the-key-of-alice"
SECRET = "of the engines"
REQUESTS = 40
WARM_UP = 10
STREAMS = 3
CHUNKS = (10, 50)
"""Of a short and a long stream. What they differ by is the cost of chunks alone."""
SLACK = 0.5
"""Calls that a timer in the background may add to a chunk."""
REQUEST_SLACK = 2.5
"""The same of a request. Weak references to tasks that have ended are among them."""
IDLE_SHARE = 0.8
"""A number of which less than this share is taken is too high."""
SHOWN = 25


@dataclass(frozen=True)
class Case:
    """A request whose cost is kept."""

    calls: int
    """Kept: those of one request."""
    calls_of_chunk: int
    """Kept: those of one more chunk of a stream."""
    model: str = "m"
    with_key: bool = False

    def view(self, url: str) -> View:
        """A catalog with keys if the request has one, and one engine."""
        catalog: list[Message] = [views.model("m"), views.adapter("m", "a"), views.model("other")]
        catalog.append(views.route("r", {"models/m": 1, "models/other": 1}))
        keys = [views.api_key("k", KEY, requestsPerMinute=10**6, tokensPerMinute=10**8)] if self.with_key else []
        activation = views.ready(url, secret=SECRET)
        return views.view(views.snapshot(*catalog, *keys), {"m": activation, "other": activation})

    def request(self, *, stream: bool = False) -> bytes:
        """The request, as its bytes."""
        asked = {"model": self.model, "messages": [{"role": "user", "content": "How much?"}], "stream": stream}
        body = json.dumps(asked).encode()
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "host: ingress",
            "accept: application/json",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *([f"authorization: Bearer {KEY}"] if self.with_key else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


KEPT: Mapping[str, Case] = {
    "without a key": Case(137, 4),
    "key with limits": Case(181, 14, with_key=True),
    "adapter": Case(143, 4, model="m:a"),
    "route": Case(143, 4, model="r"),
}


KEPT_OF_A_NEW_NAME = 158
"""The same for a name that nobody has asked for since the view changed."""


def check(calls: Counter[CodeType], units: int, kept: float, what: str, slack: float = REQUEST_SLACK) -> None:
    """Compare the calls of each of so many requests or chunks with the number that is kept."""
    taken = calls.total() / units
    if os.environ.get("PRINT_CALLS"):
        sys.stderr.write(f"{what}: {taken:.1f}\n")
        return
    table = "\n".join(
        f"{count / units:8.2f}  {code.co_qualname}  ({code.co_filename.removeprefix(sys.prefix)}:{code.co_firstlineno})"
        for code, count in calls.most_common(SHOWN)
    )
    assert taken <= kept + slack, f"{what}: {taken:.1f} calls, {kept} are kept\n{table}"
    assert taken >= kept * IDLE_SHARE, f"{what}: only {taken:.1f} calls; keep this number instead of {kept}"


@pytest.mark.parametrize("name", KEPT)
def test_a_request_takes_no_more_calls_than_are_kept(name: str) -> None:
    case = KEPT[name]
    with counted(case.view) as (ingress, _, client):
        client.ask(case.request(), times=WARM_UP)
        calls = ingress.calls_during(lambda: client.ask(case.request(), times=REQUESTS))
    check(calls, REQUESTS, case.calls, name)


@pytest.mark.parametrize("name", KEPT)
def test_a_chunk_takes_no_more_calls_than_are_kept(name: str) -> None:
    case = KEPT[name]
    short, long = CHUNKS
    taken = []
    with counted(case.view) as (ingress, engine, client):
        engine.reports_usage = case.with_key  # which the ingress asks for, and takes out again
        for engine.chunks in (short, short, long):  # the first to warm up
            taken.append(ingress.calls_during(lambda: client.ask(case.request(stream=True), times=STREAMS)))
    check(taken[2] - taken[1], STREAMS * (long - short), case.calls_of_chunk, f"a chunk, {name}", SLACK)


@pytest.mark.parametrize("names", [2 * REQUESTS, 100 * REQUESTS])
def test_a_request_takes_the_same_calls_whatever_the_number_of_names(names: int) -> None:
    def view(url: str) -> View:
        catalog = views.snapshot(*(views.model(f"m{number}") for number in range(names)))
        return views.view(catalog, {f"m{number}": views.ready(url, secret=SECRET) for number in range(names)})

    def ask_each(start: int) -> None:
        for number in range(start, names, names // REQUESTS):  # names that were not asked for before
            client.ask(Case(0, 0, model=f"m{number}").request())

    with counted(view) as (ingress, _, client):
        ask_each(0)
        calls = ingress.calls_during(lambda: ask_each(1))
    check(calls, REQUESTS, KEPT_OF_A_NEW_NAME, f"one of {names} names")


def test_calls_that_are_added_are_counted() -> None:
    case = KEPT["without a key"]

    def one_more() -> None:
        """Called on the loop of the ingress for each request."""

    with counted(case.view) as (ingress, _, client):
        client.ask(case.request())
        calls = ingress.calls_during(lambda: [ingress.on_loop(one_more) for _ in range(REQUESTS)])
    assert calls[one_more.__code__] == REQUESTS
