"""What the ingress answers to each error: a table from error to status and body. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from dataplane.openai.errors import (
    AdapterFailed,
    ApiKeyExpired,
    ApiKeyInvalid,
    ApiKeyMissing,
    BodiesFull,
    BodiesOfCallerFull,
    BodyNotObject,
    BodyTimeout,
    BodyTooLarge,
    ColdStartTimeout,
    EngineBroke,
    EngineSilent,
    EngineUnreachable,
    HeadersTooLarge,
    HeadTimeout,
    IngressError,
    InternalError,
    InvalidForm,
    InvalidHttp,
    InvalidJson,
    InvalidParameter,
    MethodNotAllowed,
    ModelFailed,
    ModelMissing,
    ModelNotFound,
    ModelNotString,
    NotReady,
    NotServedHere,
    Overloaded,
    QueueFull,
    RequestsLimited,
    ShuttingDown,
    StartQueuedTimeout,
    TaskUnsupported,
    TokensLimited,
    TooManyConnections,
    TooManyHeaders,
    TooManyUnfinished,
    UnknownPath,
    UrlTooLong,
    WebSocketsUnsupported,
)


class _Type(enum.Enum):
    """OpenAI's `type`: who is at fault, or which limit was reached."""

    CALLER = "invalid_request_error"
    SERVER = "server_error"
    REQUESTS = "requests"
    TOKENS = "tokens"


_TABLE: Mapping[type[IngressError], tuple[int, _Type, str]] = {
    InvalidHttp: (400, _Type.CALLER, "invalid_http"),
    InvalidJson: (400, _Type.CALLER, "invalid_json"),
    BodyNotObject: (400, _Type.CALLER, "invalid_body"),
    InvalidForm: (400, _Type.CALLER, "invalid_form"),
    InvalidParameter: (400, _Type.CALLER, "invalid_value"),
    ModelMissing: (400, _Type.CALLER, "missing_required_parameter"),
    ModelNotString: (400, _Type.CALLER, "invalid_type"),
    ApiKeyMissing: (401, _Type.CALLER, "invalid_api_key"),
    ApiKeyInvalid: (401, _Type.CALLER, "invalid_api_key"),
    ApiKeyExpired: (401, _Type.CALLER, "invalid_api_key"),
    ModelNotFound: (404, _Type.CALLER, "model_not_found"),
    TaskUnsupported: (404, _Type.CALLER, "unsupported_task"),
    UnknownPath: (404, _Type.CALLER, "unknown_url"),
    WebSocketsUnsupported: (400, _Type.CALLER, "websockets_unsupported"),
    MethodNotAllowed: (405, _Type.CALLER, "method_not_allowed"),
    BodyTimeout: (408, _Type.CALLER, "request_timeout"),
    HeadTimeout: (408, _Type.CALLER, "headers_timeout"),
    BodyTooLarge: (413, _Type.CALLER, "request_too_large"),
    UrlTooLong: (414, _Type.CALLER, "url_too_long"),
    RequestsLimited: (429, _Type.REQUESTS, "rate_limit_exceeded"),
    TokensLimited: (429, _Type.TOKENS, "rate_limit_exceeded"),
    BodiesOfCallerFull: (429, _Type.CALLER, "request_bodies_limited"),
    HeadersTooLarge: (431, _Type.CALLER, "headers_too_large"),
    TooManyHeaders: (431, _Type.CALLER, "too_many_headers"),
    InternalError: (500, _Type.SERVER, "internal_error"),
    EngineBroke: (502, _Type.SERVER, "engine_disconnected"),
    BodiesFull: (503, _Type.SERVER, "request_bodies_full"),
    TooManyConnections: (503, _Type.SERVER, "too_many_connections"),
    TooManyUnfinished: (503, _Type.SERVER, "too_many_unfinished_requests"),
    NotReady: (503, _Type.SERVER, "not_ready"),
    ShuttingDown: (503, _Type.SERVER, "shutting_down"),
    AdapterFailed: (503, _Type.SERVER, "adapter_failed"),
    ModelFailed: (503, _Type.SERVER, "model_failed"),
    NotServedHere: (503, _Type.SERVER, "model_unavailable"),
    QueueFull: (503, _Type.SERVER, "queue_full"),
    ColdStartTimeout: (503, _Type.SERVER, "cold_start_timeout"),
    StartQueuedTimeout: (503, _Type.SERVER, "start_queued_timeout"),
    Overloaded: (503, _Type.SERVER, "overloaded"),
    EngineUnreachable: (503, _Type.SERVER, "engine_unreachable"),
    EngineSilent: (504, _Type.SERVER, "engine_timeout"),
}

BODY_UNREAD = (BodiesFull, BodiesOfCallerFull, BodyTooLarge)
"""The rest of the body of such a request may still come."""
_CLOSES_CONNECTION = (
    *BODY_UNREAD,
    BodyTimeout,
    HeadTimeout,
    HeadersTooLarge,
    InvalidHttp,
    ShuttingDown,
    TooManyConnections,
    TooManyHeaders,
    TooManyUnfinished,
    UrlTooLong,
)
"""The rest of such a request is not read, so its connection cannot be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """An error as an HTTP response."""

    status: int
    code: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def answer_for(error: IngressError, *, anthropic: bool = False) -> ErrorAnswer:
    """Status, headers and body of an error.

    Args:
        error: What happened.
        anthropic: Use Anthropic's envelope, which OpenAI's clients read as well.
    """
    status, kind, code = _TABLE[type(error)]
    headers = [(b"content-type", b"application/json"), *error.headers]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, _CLOSES_CONNECTION):
        headers.append((b"connection", b"close"))
    content = {"message": str(error), "type": kind.value, "param": error.param, "code": code}
    envelope: dict[str, object] = {"type": "error", "error": content} if anthropic else {"error": content}
    return ErrorAnswer(status=status, code=code, headers=tuple(headers), body=msgspec.json.encode(envelope))


def event_for(error: IngressError, *, anthropic: bool = False) -> bytes:
    """The error as the last event of a stream.

    It begins with a blank line, which ends an event that was cut off.
    """
    name = b"event: error\n" if anthropic else b""
    return b"\n\n" + name + b"data: " + answer_for(error, anthropic=anthropic).body + b"\n\n"


class _Error(msgspec.Struct):
    message: str


class _Envelope(msgspec.Struct):
    error: _Error


def parse(body: bytes) -> str:
    """The message of an error in OpenAI's shape, from another part of the data plane.

    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(body, type=_Envelope).error.message
