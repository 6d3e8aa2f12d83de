"""Usage that the caller did not ask for is taken out of a stream, and nothing else changes."""

from __future__ import annotations

import pytest

from dataplane.ingress.tokens.usage_filter import UsageFilter
from dataplane.ingress.tokens.usage_request import Unasked

DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"\\"usage\\"","code":500}}\n\n'


def event(text: str, more: str = "", *, finish: str = "null", index: int = 0) -> bytes:
    """An event of vLLM's: compact JSON, in the order of its fields."""
    choice = f'{{"index":{index},"delta":{{"content":"{text}"}},"finish_reason":{finish}}}'
    return f'data: {{"id":"x","created":1,"model":"m","choices":[{choice}]{more}}}\n\n'.encode()


def usage(tokens: int) -> str:
    return f',"usage":{{"prompt_tokens":3,"total_tokens":{tokens}}}'


def last(more: str = "") -> bytes:
    return f'data: {{"id":"x","created":1,"model":"m","choices":[]{usage(9)}{more}}}\n\n'.encode()


PRINT = ',"system_fingerprint":"vllm-0.32"'
CASES = {
    "one choice": (
        event("a", usage(4)) + event("é\\n\\nb", usage(5), finish='"stop"') + last(PRINT) + DONE,
        event("a") + event("é\\n\\nb", PRINT, finish='"stop"') + DONE,
    ),
    "fields after usage": (
        event("", usage(3) + ',"prompt_token_ids":null,"prompt_text":null') + last() + DONE,
        event("", ',"prompt_token_ids":null,"prompt_text":null') + DONE,
    ),
    "two choices": (
        event("a", usage(4), finish='"stop"')
        + event("b", usage(4), index=1)
        + event("", usage(5), index=1, finish='"length"')
        + last(PRINT)
        + DONE,
        event("a", PRINT, finish='"stop"') + event("b", index=1) + event("", PRINT, index=1, finish='"length"') + DONE,
    ),
    "no fingerprint": (event("a", usage(4), finish='"stop"') + last() + DONE, event("a", finish='"stop"') + DONE),
    "an error": (event("a", usage(4)) + ERROR + DONE, event("a") + ERROR + DONE),
    "an error after the last event": (
        event("a", usage(4), finish='"stop"') + ERROR + DONE,
        event("a", finish='"stop"') + ERROR + DONE,
    ),
    "it ends without a mark": (
        event("a", usage(4), finish='"stop"') + b"data: {",
        event("a", finish='"stop"') + b"data: {",
    ),
    "the same usage in another object": (
        b'data: {"choices":[{"a":1,"usage":{"t":1}}],"usage":{"t":1},"x":2}\n\n',
        b'data: {"choices":[{"a":1,"usage":{"t":1}}],"x":2}\n\n',
    ),
    "usage as its text, too": (event(',\\"usage\\":{}', ',"usage":{}'), event(',\\"usage\\":{}')),
    "usage before all else, and with blanks": (
        b'data: {"usage":{"t":1},"choices":[]} \n\ndata: {"choices":[{}], "usage": {"t":1}}\n\n',
        b'data: {"choices":[{}]}\n\n',
    ),
    "what is no event": (
        b": comment\n\nevent: x\ndata: y\n\ndata: {oops\n\n",
        b": comment\n\nevent: x\ndata: y\n\ndata: {oops\n\n",
    ),
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", CASES)
def test_what_is_left_is_what_the_engine_would_have_sent(name: str, size: int) -> None:
    engine, caller = CASES[name]
    assert filtered(engine, Unasked.ALL, size) == caller


def test_the_last_usage_stays_if_the_caller_asked_for_it() -> None:
    engine = event("a", usage(4)) + event("b", usage(5), finish='"stop"') + last(PRINT) + DONE
    caller = event("a") + event("b", finish='"stop"') + last(PRINT) + DONE
    assert filtered(engine, Unasked.EACH_EVENT, 11) == caller


def test_events_are_passed_on_as_they_come() -> None:
    taken = UsageFilter(Unasked.ALL)
    assert taken.feed(event("a", usage(4))) == event("a")
    assert taken.feed(event("b", usage(5), finish='"stop"')) == b""
    assert taken.feed(last(PRINT)) == event("b", PRINT, finish='"stop"')


def test_what_is_held_back_is_bounded() -> None:
    taken = UsageFilter(Unasked.ALL)
    huge = event("x" * 2_000_000, finish='"stop"')
    assert taken.feed(huge) == huge
    assert taken.feed(b"y" * 2_000_000) == b"y" * 2_000_000


def filtered(stream: bytes, unasked: Unasked, size: int) -> bytes:
    taken = UsageFilter(unasked)
    return b"".join(taken.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + taken.end()
