"""Counts the tokens of one request, from what is sent to an engine to the end of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import struct_pb2

from dataplane.ingress.bodies.body import Body
from dataplane.ingress.bodies.form_body import FormBody
from dataplane.ingress.bodies.json_body import JsonBody
from dataplane.ingress.bodies.splice import Edit
from dataplane.ingress.tokens.answer_meter import AnswerMeter
from dataplane.ingress.tokens.prompt_estimate import audio_tokens, json_tokens
from dataplane.ingress.tokens.usage_filter import UsageFilter
from dataplane.ingress.tokens.usage_request import Unasked, ask_in_form, ask_in_json

_WITHOUT_TOKENS = frozenset(("/tokenize", "/detokenize", "/v1/messages/count_tokens"))
"""Routes on which no model computes anything."""
_REPORTS_ALWAYS = ("enable_force_include_usage", "enable-force-include-usage")
"""vLLM's argument that makes it report usage in every stream, to the caller as well."""


class RequestMeter:
    """Meters one request of a key that has a limit of tokens.

    A request that an engine has begun costs its prompt at least, also when the caller leaves before
    an answer. One that no engine has answered although the caller waited costs nothing.
    """

    def __init__(self, path: str, body: Body) -> None:
        """
        Args:
            path: Of the route.
            body: The request's.
        """
        self._path = path
        self._body = body
        self._unasked = Unasked.NOTHING
        self._is_with_engine = False
        self._answer: AnswerMeter | None = None
        self._filter: UsageFilter | None = None

    def asking(self, engine_args: struct_pb2.Struct) -> Sequence[Edit]:
        """How the body changes, so that the engine reports usage.

        Args:
            engine_args: Of the model.
        """
        self._is_with_engine = self._path not in _WITHOUT_TOKENS
        self._unasked = Unasked.NOTHING
        if any(name in engine_args and engine_args[name] is True for name in _REPORTS_ALWAYS):
            return ()
        edit: Edit | None = None
        if isinstance(self._body, JsonBody):
            edit, self._unasked = ask_in_json(self._path, self._body)
        elif isinstance(self._body, FormBody):
            edit, self._unasked = ask_in_form(self._body)
        return () if edit is None else (edit,)

    def failed(self) -> None:
        """The engine has given no answer."""
        self._is_with_engine = False

    def begin(self, status: int, *, streams_events: bool) -> bool:
        """The engine has begun to answer. Returns whether the caller gets less than it sends."""
        self._is_with_engine &= status < 400  # it has refused the request
        self._answer = AnswerMeter(
            streams_events=streams_events,
            is_audio=isinstance(self._body, FormBody),
            prompt_tokens=self._prompt_tokens,
        )
        if streams_events and self._unasked is not Unasked.NOTHING:
            self._filter = UsageFilter(self._unasked)
        return self._filter is not None

    def passing(self, chunk: bytes) -> bytes:
        """Read the next chunk of the answer. Returns what the caller gets of it; may be empty."""
        assert self._answer is not None, "an answer begins first"
        self._answer.feed(chunk)
        return self._filter.feed(chunk) if self._filter is not None else chunk

    def end(self) -> bytes:
        """The answer is complete, or has broken off. Returns what the caller still gets."""
        assert self._answer is not None, "an answer begins first"
        self._answer.end()
        return self._filter.end() if self._filter is not None else b""

    def tokens(self) -> int:
        """What the request costs so far."""
        if not self._is_with_engine:
            return 0
        return self._prompt_tokens() if self._answer is None else self._answer.tokens()

    def _prompt_tokens(self) -> int:
        return audio_tokens(self._body.raw) if isinstance(self._body, FormBody) else json_tokens(self._body.raw)
