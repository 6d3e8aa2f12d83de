"""Every error body that the ingress makes: one table from domain error to status and OpenAI body.
Pure."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

_QUOTED_NAME_CHARACTERS_MAX = 256
"""No served name is longer; a body may hold a megabyte of it."""
_REASON_CHARACTERS_MAX = 300
"""Of an engine's words that are shown to a caller."""


class IngressError(Exception):
    """A request that the ingress answers itself. `str()` of it is what the caller reads."""

    retry_after_s: float | None = None
    """When to try again; None: no use."""
    param: str | None = None
    """The request's parameter at fault."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Further headers of the answer."""


class InvalidJson(IngressError):
    def __init__(self, detail: str) -> None:
        super().__init__(f"The request body is not valid JSON: {detail}.")


class BodyNotObject(IngressError):
    def __init__(self) -> None:
        super().__init__("The request body has to be a JSON object.")


class InvalidForm(IngressError):
    def __init__(self, detail: str) -> None:
        super().__init__(f"The request body is not a valid multipart form: {detail}.")


class InvalidParameter(IngressError):
    """A query parameter that cannot be meant. `got` is quoted and bounded already."""

    def __init__(self, name: str, got: str, allowed: str) -> None:
        super().__init__(f"Invalid value for the parameter `{name}`: got {got}; allowed: {allowed}.")
        self.param = name


class ModelMissing(IngressError):
    param = "model"

    def __init__(self) -> None:
        super().__init__("You must provide a model parameter.")


class ModelNotString(IngressError):
    param = "model"

    def __init__(self) -> None:
        super().__init__("The model parameter has to be a string.")


class ModelNotFound(IngressError):
    param = "model"

    def __init__(self, served_name: str) -> None:
        shown = served_name[:_QUOTED_NAME_CHARACTERS_MAX]
        super().__init__(f"The model `{shown}` does not exist.")


class NotServedHere(IngressError):
    """What it stands for is not to be had on this data plane: it left the catalog just now, or is
    quarantined."""

    retry_after_s = 5.0

    def __init__(self, served_name: str) -> None:
        super().__init__(f"The model `{served_name}` is not available here at the moment.")


class ApiKeyMissing(IngressError):
    def __init__(self) -> None:
        super().__init__("You didn't provide an API key. Send it in the header `authorization: Bearer YOUR_KEY`.")


class ApiKeyInvalid(IngressError):
    def __init__(self) -> None:
        super().__init__("Incorrect API key provided: it is unknown here, or was revoked.")


class ApiKeyExpired(IngressError):
    def __init__(self) -> None:
        super().__init__("The API key provided has expired.")


class RequestsLimited(IngressError):
    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"Rate limit reached for this API key: {limit} requests per minute.")
        self.retry_after_s = retry_after_s


class TokensLimited(IngressError):
    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"Rate limit reached for this API key: {limit} tokens per minute.")
        self.retry_after_s = retry_after_s


class UnknownPath(IngressError):
    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {method} {path[:_QUOTED_NAME_CHARACTERS_MAX]}.")


class MethodNotAllowed(IngressError):
    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"The method {method} is not allowed here; allowed: {allowed}.")
        self.allowed = allowed


class BodyTooLarge(IngressError):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than the {limit_bytes} bytes that are allowed.")


class HeadersTooLarge(IngressError):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request headers are larger than the {limit_bytes} bytes that are allowed.")


class BodyTimeout(IngressError):
    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"The request body did not arrive within {timeout_s:g} s.")


class NotReady(IngressError):
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("The service has not received its model catalog yet.")


class ShuttingDown(IngressError):
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("This server is shutting down; another one will answer.")


class ModelFailed(IngressError):
    """The model does not start. `message` is the engine's own and is redacted here."""

    def __init__(self, served_name: str, *, reason: str, message: str, retry_after_s: float) -> None:
        words = ": ".join(part for part in (reason, redact(message)) if part)
        super().__init__(f"The model `{served_name}` failed to start: {words or 'no reason given'}")
        self.retry_after_s = retry_after_s


class QueueFull(IngressError):
    retry_after_s = 2.0

    def __init__(self, served_name: str, limit: int) -> None:
        super().__init__(f"The model `{served_name}` already has {limit} requests waiting, which is its limit.")


class ColdStartTimeout(IngressError):
    retry_after_s = 5.0

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The model `{served_name}` did not start within {timeout_s:g} s; it may still be starting.")


class Overloaded(IngressError):
    retry_after_s = 1.0

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The model `{served_name}` had no room for the request within {timeout_s:g} s.")


class EngineUnreachable(IngressError):
    retry_after_s = 1.0

    def __init__(self, served_name: str) -> None:
        super().__init__(f"No replica of the model `{served_name}` could be reached.")


class EngineSilent(IngressError):
    """A replica had the request and said nothing for too long, before its answer or within it."""

    def __init__(self, served_name: str, timeout_s: float) -> None:
        super().__init__(f"The replica of the model `{served_name}` said nothing for {timeout_s:g} s.")


class EngineBroke(IngressError):
    """The answer broke off after it had begun."""

    def __init__(self, served_name: str) -> None:
        super().__init__(f"The replica of the model `{served_name}` went away before its answer was complete.")


class TaskUnsupported(IngressError):
    """Said by a replica: its engine has no such route, because the model's task is another."""

    def __init__(self, served_name: str, path: str, tasks: Iterable[str]) -> None:
        super().__init__(f"The model `{served_name}` does not serve {path}; its tasks are: {', '.join(tasks)}.")


class InternalError(IngressError):
    def __init__(self, request_id: str) -> None:
        super().__init__(f"The server had an error while handling the request; its id is {request_id}.")


class _Type(enum.Enum):
    """OpenAI's `type`: whose fault it is, or which limit was reached."""

    CALLER = "invalid_request_error"
    SERVER = "server_error"
    REQUESTS = "requests"
    TOKENS = "tokens"


_TABLE: Mapping[type[IngressError], tuple[int, _Type, str]] = {
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
    MethodNotAllowed: (405, _Type.CALLER, "method_not_allowed"),
    BodyTimeout: (408, _Type.CALLER, "request_timeout"),
    BodyTooLarge: (413, _Type.CALLER, "request_too_large"),
    RequestsLimited: (429, _Type.REQUESTS, "rate_limit_exceeded"),
    TokensLimited: (429, _Type.TOKENS, "rate_limit_exceeded"),
    HeadersTooLarge: (431, _Type.CALLER, "headers_too_large"),
    InternalError: (500, _Type.SERVER, "internal_error"),
    EngineBroke: (502, _Type.SERVER, "engine_disconnected"),
    NotReady: (503, _Type.SERVER, "not_ready"),
    ShuttingDown: (503, _Type.SERVER, "shutting_down"),
    ModelFailed: (503, _Type.SERVER, "model_failed"),
    NotServedHere: (503, _Type.SERVER, "model_unavailable"),
    QueueFull: (503, _Type.SERVER, "queue_full"),
    ColdStartTimeout: (503, _Type.SERVER, "cold_start_timeout"),
    Overloaded: (503, _Type.SERVER, "overloaded"),
    EngineUnreachable: (503, _Type.SERVER, "engine_unreachable"),
    EngineSilent: (504, _Type.SERVER, "engine_timeout"),
}

_CLOSES_CONNECTION = (BodyTimeout, BodyTooLarge, HeadersTooLarge, ShuttingDown)
"""After these the rest of the request is not read, so the connection can't be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """An error as it goes over the wire."""

    status: int
    code: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def answer_for(error: IngressError, *, anthropic: bool = False) -> ErrorAnswer:
    """Status, headers and body of an error.

    Args:
        error: what happened.
        anthropic: put Anthropic's envelope around it, which OpenAI's clients read as well.
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
    """The error as the last event of a stream. The blank line first ends an event that was cut
    off."""
    name = b"event: error\n" if anthropic else b""
    return b"\n\n" + name + b"data: " + answer_for(error, anthropic=anthropic).body + b"\n\n"


_REDACTIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", "<url>"),
        (r"(['\"])~?/[^'\"]+\1", "<path>"),  # in quotes a path may hold spaces
        (r"(?<![\w/<])~?/[\w.@+~-][^\s'\":,;)\]}<>]*", "<path>"),
        (r"(?<![\w<])[\w.@+-]+(?:/[\w.@+-]+){2,}/?", "<path>"),  # a relative one; `org/name` of a hub stays
        (r"\b[A-Za-z]:\\[^\s'\"]+", "<path>"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b", "<address>"),
        (r"\[[0-9a-fA-F:.]*::?[0-9a-fA-F:.%\w]*\](?::\d{1,5})?", "<address>"),
        (
            r"(?<![\w:])(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:)*:[0-9a-fA-F:]+)(?![\w:])",
            "<address>",
        ),
        (r"\b(?:[A-Za-z0-9-]+\.)+(?:local|internal|lan|svc|cluster|localdomain)\b(?::\d{1,5})?", "<address>"),
        (r"\b[A-Za-z][\w.-]*:\d{4,5}\b", "<address>"),
        (r"\b(?:hf|sk|ghp|xox[bp])[_-][A-Za-z0-9_-]{12,}", "<secret>"),
        (r"(?i)\bbearer\s+\S+", "<secret>"),
    )
)


def redact(message: str) -> str:
    """An engine's own words, fit for a caller: no path, URL, address or secret, one line, at most
    300 characters.

    Of a traceback only the last line is kept: the error itself.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        lines = lines[-1:]
    text = " ".join(lines)
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text if len(text) <= _REASON_CHARACTERS_MAX else text[: _REASON_CHARACTERS_MAX - 1] + "…"
